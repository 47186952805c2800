#include "pika_storage.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>

#include "pika_util.h"

using rocksdb::Status;

namespace {

// Of the index and the filter of one table: in memory, or where they are in the
// block cache.
const uint64_t kTableBytes = 64 << 10;
const uint64_t kCachedTableBytes = 4 << 10;

}  // namespace

PikaStorage::PikaStorage() {
  // The default prefers readers, who would keep writers away for as long as
  // reads overlap.
  pthread_rwlockattr_t attributes;
  pthread_rwlockattr_init(&attributes);
  pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
  pthread_rwlock_init(&lock_, &attributes);
  pthread_rwlockattr_destroy(&attributes);
}

PikaStorage::~PikaStorage() { pthread_rwlock_destroy(&lock_); }

Status PikaStorage::Open(const Options& options) {
  options_ = options;
  path_ = options.folder + "db0";
  db_options_.compression = options.compression;
  if (!MakeFolders(path_)) return Status::IOError(path_);
  const Status s = rocksdb::DB::Open(db_options_, path_, &db_);
  if (s.ok()) tables_ = db_->ClosedSegments().size();
  return s;
}

PikaStorage::Usage PikaStorage::usage() const {
  uint64_t open = tables_;
  if (options_.open_tables >= 0) open = std::min(open, static_cast<uint64_t>(options_.open_tables));
  Usage usage;
  usage.memtable = memtable_bytes_;
  usage.table_reader = open * (options_.tables_are_cached ? kCachedTableBytes : kTableBytes);
  return usage;
}

Status PikaStorage::Replace(const std::string& files) {
  const std::string incoming = path_ + ".incoming";
  const std::string old = path_ + ".old";
  if (!RemoveAll(incoming) || !RemoveAll(old) || !MakeFolders(incoming)) {
    return Status::IOError(incoming);
  }
  for (const std::string& name : ListFolder(files)) {
    if (!LinkOrCopy(files + "/" + name, incoming + "/" + name)) return Status::IOError(name);
  }
  db_.reset();
  Status s;
  if (rename(path_.c_str(), old.c_str()) != 0 || rename(incoming.c_str(), path_.c_str()) != 0) {
    s = Status::IOError(path_);
  }
  const Status opened = rocksdb::DB::Open(db_options_, path_, &db_);
  // Without a database every later step would fail in its own way.
  if (!opened.ok()) throw StorageError("reopen " + path_ + ": " + opened.ToString());
  RemoveAll(old);
  memtable_bytes_ = 0;
  tables_ = db_->ClosedSegments().size();
  return s;
}

bool PikaStorage::Load(const std::string& key, Meta* meta) const {
  std::string data;
  const Status s = db_->Get(MetaKey(key), &data);
  if (s.IsNotFound()) return false;
  if (!s.ok()) throw StorageError(s.ToString());
  if (!DecodeMeta(data, meta)) throw StorageError("malformed entry of a key");
  return true;
}

bool PikaStorage::IsExpired(const Meta& meta) {
  return meta.expire_ms != 0 && meta.expire_ms <= NowMillis();
}

bool PikaStorage::Find(const std::string& key, Meta* meta) const {
  if (Load(key, meta) && !IsExpired(*meta)) return true;
  *meta = Meta();
  return false;
}

bool PikaStorage::FindForWrite(const std::string& key, Meta* meta) {
  if (Load(key, meta)) {
    if (!IsExpired(*meta)) return true;
    rocksdb::WriteBatch batch;
    Remove(key, *meta, &batch);
    Commit(batch);
  }
  *meta = Meta();
  return false;
}

bool PikaStorage::GetPart(const std::string& part_key, std::string* value) const {
  const Status s = db_->Get(part_key, value);
  if (!s.ok() && !s.IsNotFound()) throw StorageError(s.ToString());
  return s.ok();
}

void PikaStorage::ScanParts(const std::string& prefix,
                            const std::function<bool(const std::string&)>& visit) const {
  db_->Scan(prefix, prefix,
            [&](const std::string& raw) { return visit(raw.substr(prefix.size())); });
}

void PikaStorage::ScanKeys(const std::string& start,
                           const std::function<bool(const std::string&)>& visit) const {
  db_->Scan(MetaKey(""), MetaKey(start),
            [&](const std::string& raw) { return visit(raw.substr(1)); });
}

void PikaStorage::Store(const std::string& key, const Meta& meta,
                        rocksdb::WriteBatch* batch) const {
  if (meta.type != kString && meta.count == 0) {
    batch->Delete(MetaKey(key));
  } else {
    batch->Put(MetaKey(key), EncodeMeta(meta));
  }
}

void PikaStorage::Remove(const std::string& key, const Meta& meta,
                         rocksdb::WriteBatch* batch) const {
  const char* parts = "";
  switch (meta.type) {
    case kString: break;
    case kHash: parts = "h"; break;
    case kList: parts = "l"; break;
    case kSet: parts = "s"; break;
    case kZset: parts = "zo"; break;
  }
  for (; *parts != '\0'; parts++) {
    const std::string prefix = PartPrefix(*parts, key);
    db_->Scan(prefix, prefix, [&](const std::string& raw) {
      batch->Delete(raw);
      return true;
    });
  }
  batch->Delete(MetaKey(key));
}

void PikaStorage::Commit(const rocksdb::WriteBatch& batch) {
  if (!fatal_.empty()) throw StorageError(fatal_);
  if (!binlog_.Append(batch.data())) {
    fatal_ = std::string("binlog: ") + strerror(errno);
    throw StorageError(fatal_);
  }
  const Status s = db_->Write(batch);
  if (!s.ok()) {
    fatal_ = s.ToString();
    throw StorageError(fatal_);
  }
  memtable_bytes_ += batch.data().size();
  if (memtable_bytes_ > options_.write_buffer_bytes) {
    memtable_bytes_ = 0;
    tables_++;
  }
}
