#include "pika_storage.h"

#include <errno.h>
#include <stdio.h>

#include "pika_util.h"

using rocksdb::Status;

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

Status PikaStorage::Open(const std::string& folder, rocksdb::Compression compression) {
  path_ = folder + "db0";
  options_.compression = compression;
  if (!MakeFolders(path_)) return Status::IOError(path_);
  return rocksdb::DB::Open(options_, path_, &db_);
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
  const Status opened = rocksdb::DB::Open(options_, path_, &db_);
  // Without a database every later step would fail in its own way.
  if (!opened.ok()) throw StorageError("reopen " + path_ + ": " + opened.ToString());
  RemoveAll(old);
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
  const Status s = db_->Write(batch);
  if (!s.ok()) throw StorageError(s.ToString());
}
