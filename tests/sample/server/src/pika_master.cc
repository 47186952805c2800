#include "pika_master.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "pika_inner_message.pb.h"
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

rocksdb::LogPosition FromMessage(const sample::inner::Position& message) {
  rocksdb::LogPosition position;
  position.segment = message.segment();
  position.offset = message.offset();
  return position;
}

void ToMessage(const rocksdb::LogPosition& position, sample::inner::Position* message) {
  message->set_segment(position.segment);
  message->set_offset(position.offset);
}

template <typename Message>
bool SendMessage(pink::MessageSocket* socket, const Message& message) {
  std::string bytes;
  return message.SerializeToString(&bytes) && socket->Send(bytes);
}

template <typename Message>
bool ReceiveMessage(pink::MessageSocket* socket, Message* message) {
  std::string bytes;
  return socket->Receive(&bytes) && message->ParseFromString(bytes);
}

// The open files of a snapshot: they stay readable even if the database drops
// them meanwhile.
struct OpenFiles {
  ~OpenFiles() {
    for (int fd : fds) close(fd);
  }
  std::vector<int> fds;
};

bool OpenSnapshot(PikaStorage* storage, Snapshot* snapshot, OpenFiles* files) {
  PikaStorage::WriteLock lock(storage);
  rocksdb::DB* db = storage->db();
  rocksdb::LogPosition position;
  if (!db->Rotate(&position).ok()) return false;
  for (const std::string& name : db->ClosedSegments()) {
    const int fd = open((db->path() + "/" + name).c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    files->fds.push_back(fd);
    struct stat info;
    if (fstat(fd, &info) != 0) return false;
    SnapshotFile* file = snapshot->add_files();
    file->set_name(name);
    file->set_size(static_cast<uint64_t>(info.st_size));
  }
  snapshot->set_identity(db->identity());
  ToMessage(position, snapshot->mutable_position());
  return true;
}

bool SendFile(pink::MessageSocket* socket, int fd, uint64_t size) {
  std::vector<char> chunk(kChunk);
  uint32_t checksum = 0;
  uint64_t done = 0;
  while (done < size) {
    const size_t want = static_cast<size_t>(std::min<uint64_t>(kChunk, size - done));
    const ssize_t n = pread(fd, chunk.data(), want, static_cast<off_t>(done));
    if (n != static_cast<ssize_t>(want)) return false;
    checksum = rocksdb::Checksum(chunk.data(), want, checksum);
    if (!socket->SendBytes(chunk.data(), want)) return false;
    done += want;
  }
  FileTrailer trailer;
  trailer.set_checksum(checksum);
  return SendMessage(socket, trailer);
}

}  // namespace

PikaMaster::PikaMaster(const PikaConf* conf, PikaStorage* storage)
    : conf_(conf),
      storage_(storage),
      pid_file_(conf->GetFolder("db-sync-path") + "rsync/slash_rsync.pid"),
      files_(static_cast<int>(conf->GetInt("port")) + 1000,
             [this](const std::shared_ptr<pink::MessageSocket>& s) { ServeFiles(s); }),
      log_(static_cast<int>(conf->GetInt("port")) + 2000,
           [this](const std::shared_ptr<pink::MessageSocket>& s) { ServeLog(s); }) {}

bool PikaMaster::Start(std::string* error) {
  // Empty after false: a service that seems to live is no reason to end.
  return (EnsureFiles(error) || error->empty()) && log_.Start(error);
}

bool PikaMaster::EnsureFiles(std::string* error) {
  std::lock_guard<std::mutex> lock(files_mutex_);
  if (serves_files_) return true;
  if (access(pid_file_.c_str(), F_OK) == 0) {
    LOG(WARNING) << "rsync service is taken to be alive, as there is " << pid_file_;
    return false;
  }
  if (!files_.Start(error)) return false;
  if (!MakeFolders(pid_file_.substr(0, pid_file_.rfind('/')))) {
    *error = "cannot make the folder of " + pid_file_;
    return false;
  }
  std::ofstream(pid_file_) << getpid() << "\n";
  serves_files_ = true;
  return true;
}

void PikaMaster::Stop() {
  DropReplicas();
  {
    std::lock_guard<std::mutex> lock(files_mutex_);
    if (serves_files_) unlink(pid_file_.c_str());
  }
  files_.Stop();
  log_.Stop();
}

void PikaMaster::DropReplicas() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (Replica& replica : replicas_) {
    replica.socket->Shutdown();
    replica.reader->Cancel();
  }
}

std::vector<PikaMaster::ReplicaInfo> PikaMaster::replicas() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<ReplicaInfo> infos;
  for (const Replica& replica : replicas_) infos.push_back(replica.info);
  return infos;
}

std::string PikaMaster::Refusal(const std::string& auth) const {
  const std::string password = conf_->Get("requirepass");
  if (!password.empty() && auth != password) return "masterauth is not this server's requirepass";
  if (!conf_->GetBool("write-binlog")) return "write-binlog is off";
  return std::string();
}

void PikaMaster::ServeFiles(const std::shared_ptr<pink::MessageSocket>& socket) {
  Hello hello;
  if (!ReceiveMessage(socket.get(), &hello)) return;
  Snapshot snapshot;
  OpenFiles files;
  const std::string refusal = Refusal(hello.auth());
  if (!refusal.empty()) {
    snapshot.set_code(HelloReply::REFUSED);
    snapshot.set_reason(refusal);
  } else if (!OpenSnapshot(storage_, &snapshot, &files)) {
    snapshot.Clear();
    snapshot.set_code(HelloReply::REFUSED);
    snapshot.set_reason("cannot make a snapshot");
  } else {
    snapshot.set_code(HelloReply::OK);
  }
  bool ok = SendMessage(socket.get(), snapshot);
  for (int i = 0; ok && i < snapshot.files_size(); i++) {
    ok = SendFile(socket.get(), files.fds[static_cast<size_t>(i)], snapshot.files(i).size());
  }
  LOG(INFO) << "full synchronisation: " << snapshot.files_size() << " files "
            << (ok ? "sent" : "not sent: the connection broke");
}

void PikaMaster::ServeLog(const std::shared_ptr<pink::MessageSocket>& socket) {
  Hello hello;
  if (!ReceiveMessage(socket.get(), &hello)) return;
  HelloReply answer;
  answer.set_code(HelloReply::OK);
  answer.set_reason(Refusal(hello.auth()));
  if (!answer.reason().empty()) answer.set_code(HelloReply::REFUSED);

  Replica replica;
  replica.socket = socket;
  replica.info.fd = socket->fd();
  pink::PeerAddress(socket->fd(), &replica.info.ip, &replica.info.port);
  replica.info.port = static_cast<int>(hello.port());
  Entry entry;
  if (answer.code() == HelloReply::OK) {
    // The database must not be replaced between looking at it and entering the
    // list of those who are then told.
    PikaStorage::ReadLock lock(storage_);
    const rocksdb::DB* db = storage_->db();
    replica.info.acked = FromMessage(hello.position());
    replica.reader = std::make_shared<rocksdb::LogReader>(db->path(), db->tail());
    if (hello.identity() != db->identity() || !replica.reader->Seek(replica.info.acked).ok()) {
      answer.set_code(HelloReply::NEED_FULL_SYNC);
    } else {
      std::lock_guard<std::mutex> list_lock(mutex_);
      entry = replicas_.insert(replicas_.end(), replica);
    }
  }
  if (answer.code() != HelloReply::OK) {
    std::string error;
    if (answer.code() == HelloReply::NEED_FULL_SYNC && !EnsureFiles(&error)) {
      LOG(ERROR) << "full synchronisation: there is no rsync service. " << error;
    }
    SendMessage(socket.get(), answer);
    return;
  }

  LOG(INFO) << "replica " << replica.info.ip << ":" << replica.info.port << " connected";
  std::thread sender([&] {
    bool ok = SendMessage(socket.get(), answer);
    BinlogRecord record;
    while (ok) {
      ok = replica.reader->Next(record.mutable_batch()).ok();
      if (!ok) break;
      ToMessage(replica.reader->position(), record.mutable_end());
      ok = SendMessage(socket.get(), record);
    }
    // Wakes the receiver below.
    socket->Shutdown();
  });
  BinlogAck ack;
  while (ReceiveMessage(socket.get(), &ack)) {
    std::lock_guard<std::mutex> lock(mutex_);
    entry->info.acked = FromMessage(ack.position());
  }
  replica.reader->Cancel();
  socket->Shutdown();
  sender.join();
  std::lock_guard<std::mutex> lock(mutex_);
  replicas_.erase(entry);
  LOG(INFO) << "replica " << replica.info.ip << ":" << replica.info.port << " disconnected";
}
