#include "pika_slave.h"

#include <glog/logging.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <sstream>
#include <vector>

#include "pika_inner_message.pb.h"
#include "pika_master.h"
#include "pika_util.h"
#include "rocksdb/checksum.h"

using sample::inner::BinlogAck;
using sample::inner::BinlogRecord;
using sample::inner::FileTrailer;
using sample::inner::Hello;
using sample::inner::HelloReply;
using sample::inner::Snapshot;
using sample::inner::SnapshotFile;

namespace {

const size_t kChunk = 64 << 10;
const std::chrono::seconds kRetryAfter(1);

std::string EncodeProgress(const std::string& identity, const rocksdb::LogPosition& position) {
  std::ostringstream out;
  out << identity << ' ' << position.segment << ' ' << position.offset;
  return out.str();
}

}  // namespace

PikaSlave::PikaSlave(const PikaConf* conf, PikaStorage* storage, PikaMaster* own_replicas)
    : conf_(conf), storage_(storage), own_replicas_(own_replicas), following_(false) {}

const char* PikaSlave::StateName(State state) {
  switch (state) {
    case kNoConnect: return "NoConnect";
    case kTryConnect: return "TryConnect";
    case kTryDBSync: return "TryDBSync";
    case kWaitDBSync: return "WaitDBSync";
    case kConnected: return "Connected";
    case kError: return "Error";
  }
  return "?";
}

void PikaSlave::Follow(const std::string& ip, int port) {
  Stop();
  std::lock_guard<std::mutex> control(control_mutex_);
  if (thread_.joinable()) return;  // somebody else was faster
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = false;
    ip_ = ip;
    port_ = port;
    state_ = kTryConnect;
  }
  following_ = true;
  thread_ = std::thread(&PikaSlave::Run, this);
}

void PikaSlave::Stop() {
  std::lock_guard<std::mutex> control(control_mutex_);
  if (!thread_.joinable()) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    if (socket_) socket_->Shutdown();
    stop_requested_.notify_all();
  }
  thread_.join();
  thread_ = std::thread();
  following_ = false;
  SetState(kNoConnect);
}

void PikaSlave::Leave() {
  Stop();
  PikaStorage::WriteLock lock(storage_);
  if (!storage_->db()->Contains(kReplicationKey)) return;
  rocksdb::WriteBatch batch;
  batch.Delete(kReplicationKey);
  storage_->Commit(batch);
}

PikaSlave::Info PikaSlave::info() const {
  std::lock_guard<std::mutex> lock(mutex_);
  Info info = {ip_, port_, state_};
  return info;
}

void PikaSlave::SetState(State state) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (state_ == state) return;
  LOG(INFO) << "replication: " << StateName(state);
  state_ = state;
}

void PikaSlave::Run() {
  for (;;) {
    bool at_once = false;
    try {
      at_once = FollowLog();
    } catch (const StorageError& error) {
      LOG(ERROR) << "replication: " << error.what();
      SetState(kError);
    }
    std::unique_lock<std::mutex> lock(mutex_);
    socket_.reset();
    // The only clock in the server: a master that is away cannot announce that
    // it is back.
    const std::chrono::seconds pause = at_once ? std::chrono::seconds(0) : kRetryAfter;
    if (stop_requested_.wait_for(lock, pause, [this] { return stopping_; })) return;
  }
}

std::shared_ptr<pink::MessageSocket> PikaSlave::Connect(int port) {
  std::string ip, error;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ip = ip_;
    port += port_;
  }
  std::shared_ptr<pink::MessageSocket> socket = pink::MessageSocket::Connect(ip, port, &error);
  if (!socket) {
    LOG(WARNING) << "replication: " << error;
    return nullptr;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  // From here on Stop() can end whatever this connection waits for.
  socket_ = socket;
  if (stopping_) socket->Shutdown();
  return socket;
}

Hello PikaSlave::MakeHello() const {
  Hello hello;
  hello.set_auth(conf_->Get("masterauth"));
  hello.set_port(static_cast<uint32_t>(conf_->GetInt("port")));
  std::string progress;
  PikaStorage::ReadLock lock(storage_);
  if (storage_->db()->Get(kReplicationKey, &progress).ok()) {
    std::istringstream in(progress);
    std::string identity;
    uint64_t segment = 0, offset = 0;
    in >> identity >> segment >> offset;
    hello.set_identity(identity);
    hello.mutable_position()->set_segment(segment);
    hello.mutable_position()->set_offset(offset);
  }
  return hello;
}

bool PikaSlave::FollowLog() {
  const Hello hello = MakeHello();
  HelloReply answer;
  std::string bytes;
  const std::shared_ptr<pink::MessageSocket> socket = Connect(2000);
  if (!socket || !socket->Send(hello.SerializeAsString()) || !socket->Receive(&bytes) ||
      !answer.ParseFromString(bytes)) {
    SetState(kTryConnect);
    return false;
  }
  if (answer.code() == HelloReply::REFUSED) {
    LOG(ERROR) << "replication: the master refuses: " << answer.reason();
    SetState(kError);
    return false;
  }
  if (answer.code() == HelloReply::NEED_FULL_SYNC) {
    SetState(kTryDBSync);
    return CopyFiles();
  }
  SetState(kConnected);
  ApplyRecords(socket.get(), hello.identity());
  SetState(kTryConnect);
  return false;
}

void PikaSlave::ApplyRecords(pink::MessageSocket* socket, const std::string& identity) {
  std::string bytes;
  BinlogRecord record;
  while (socket->Receive(&bytes)) {
    rocksdb::WriteBatch batch;
    if (!record.ParseFromString(bytes) || !batch.Assign(record.batch())) {
      LOG(ERROR) << "replication: malformed record";
      return;
    }
    rocksdb::LogPosition end;
    end.segment = record.end().segment();
    end.offset = record.end().offset();
    // In the same batch, so that data and progress cannot disagree.
    batch.Put(kReplicationKey, EncodeProgress(identity, end));
    {
      PikaStorage::WriteLock lock(storage_);
      storage_->Commit(batch);
    }
    if (socket->HasInput()) continue;  // one answer for many
    BinlogAck ack;
    *ack.mutable_position() = record.end();
    if (!socket->Send(ack.SerializeAsString())) return;
  }
}

bool PikaSlave::CopyFiles() {
  // The product's master writes into the replica's own rsync service.
  std::string error;
  if (!own_replicas_->EnsureFiles(&error)) {
    LOG(ERROR) << "full synchronisation: there is no rsync service here. " << error;
    return false;
  }
  const std::shared_ptr<pink::MessageSocket> socket = Connect(1000);
  if (!socket) return false;
  SetState(kWaitDBSync);
  const std::string folder = conf_->GetFolder("db-sync-path") + "db0";
  if (!RemoveAll(folder) || !MakeFolders(folder)) {
    throw StorageError("cannot empty " + folder);
  }
  std::string identity;
  rocksdb::LogPosition position;
  if (!ReceiveFiles(socket.get(), folder, &identity, &position)) return false;

  PikaStorage::WriteLock lock(storage_);
  const rocksdb::Status s = storage_->Replace(folder);
  own_replicas_->DropReplicas();
  if (!s.ok()) throw StorageError(s.ToString());
  rocksdb::WriteBatch batch;
  batch.Put(kReplicationKey, EncodeProgress(identity, position));
  storage_->Commit(batch);
  RemoveAll(folder);
  return true;
}

bool PikaSlave::ReceiveFiles(pink::MessageSocket* socket, const std::string& folder,
                             std::string* identity, rocksdb::LogPosition* position) {
  std::string bytes;
  Snapshot snapshot;
  if (!socket->Send(MakeHello().SerializeAsString()) || !socket->Receive(&bytes) ||
      !snapshot.ParseFromString(bytes)) {
    return false;
  }
  if (snapshot.code() != HelloReply::OK) {
    LOG(ERROR) << "full synchronisation: the master refuses: " << snapshot.reason();
    return false;
  }
  std::vector<char> chunk(kChunk);
  for (const SnapshotFile& file : snapshot.files()) {
    // Also keeps the name inside of the folder.
    if (rocksdb::SegmentNumber(file.name()) == 0) return false;
    std::ofstream out(folder + "/" + file.name(), std::ios::binary);
    uint32_t checksum = 0;
    uint64_t left = file.size();
    while (left > 0) {
      const size_t want = static_cast<size_t>(std::min<uint64_t>(kChunk, left));
      if (!socket->ReceiveBytes(chunk.data(), want)) return false;
      checksum = rocksdb::Checksum(chunk.data(), want, checksum);
      out.write(chunk.data(), static_cast<std::streamsize>(want));
      left -= want;
    }
    out.close();
    FileTrailer trailer;
    if (!out || !socket->Receive(&bytes) || !trailer.ParseFromString(bytes) ||
        trailer.checksum() != checksum) {
      LOG(ERROR) << "full synchronisation: " << file.name() << " did not arrive whole";
      return false;
    }
  }
  *identity = snapshot.identity();
  position->segment = snapshot.position().segment();
  position->offset = snapshot.position().offset();
  LOG(INFO) << "full synchronisation: " << snapshot.files_size() << " files received";
  return true;
}
