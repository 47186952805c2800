#ifndef PIKA_STORAGE_H_
#define PIKA_STORAGE_H_

#include <pthread.h>

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "pika_binlog.h"
#include "pika_coding.h"
#include "rocksdb/db.h"

// The disk failed or lies. Caught where commands are dispatched.
class StorageError : public std::runtime_error {
 public:
  explicit StorageError(const std::string& what) : std::runtime_error(what) {}
};

// The database of the server: typed values with expiry on top of the ordered
// keys of the storage library. Methods say which lock the caller holds; a
// command holds one for its whole run and thus sees and leaves a consistent
// state.
class PikaStorage {
 public:
  PikaStorage();
  ~PikaStorage();

  struct Options {
    std::string folder;  // the database is in its db0
    rocksdb::Compression compression = rocksdb::Compression::kNone;
    // What decides the memory that Usage() tells.
    uint64_t write_buffer_bytes = 0;
    int64_t open_tables = -1;  // -1: all
    bool tables_are_cached = false;
  };
  rocksdb::Status Open(const Options& options);
  // Puts the segment files of another folder in its place. Write lock.
  rocksdb::Status Replace(const std::string& files);

  class ReadLock {
   public:
    explicit ReadLock(const PikaStorage* storage) : lock_(&storage->lock_) {
      pthread_rwlock_rdlock(lock_);
    }
    ~ReadLock() { pthread_rwlock_unlock(lock_); }

   private:
    pthread_rwlock_t* lock_;
  };
  class WriteLock {
   public:
    explicit WriteLock(const PikaStorage* storage) : lock_(&storage->lock_) {
      pthread_rwlock_wrlock(lock_);
    }
    ~WriteLock() { pthread_rwlock_unlock(lock_); }

   private:
    pthread_rwlock_t* lock_;
  };

  // Read lock. False: no such key; one whose time is over is still found.
  bool Load(const std::string& key, Meta* meta) const;
  static bool IsExpired(const Meta& meta);
  // Read lock. False: no such key, or its time is over.
  bool Find(const std::string& key, Meta* meta) const;
  // Write lock. As Find, and removes what is left of a key whose time is over,
  // so that a new value starts empty.
  bool FindForWrite(const std::string& key, Meta* meta);

  // Read lock. The raw value of a part of a collection.
  bool GetPart(const std::string& part_key, std::string* value) const;
  // Read lock. Names behind the prefix, in order, until the visitor says false.
  void ScanParts(const std::string& prefix,
                 const std::function<bool(const std::string& name)>& visit) const;
  // Read lock. All keys of the database from `start` on, expired ones included.
  void ScanKeys(const std::string& start,
                const std::function<bool(const std::string& key)>& visit) const;

  // Writes the meta entry; one of an empty collection is removed.
  void Store(const std::string& key, const Meta& meta, rocksdb::WriteBatch* batch) const;
  // Removes the key and all its parts.
  void Remove(const std::string& key, const Meta& meta, rocksdb::WriteBatch* batch) const;
  // Write lock. Once this returns, the end of the process does not lose it.
  // After a write that failed, as on a full disk, all others fail until the
  // server starts anew.
  void Commit(const rocksdb::WriteBatch& batch);

  // Memory as the product would use it: what was written since the last flush,
  // and the indexes of open tables, of which each flush makes one.
  struct Usage {
    uint64_t memtable;
    uint64_t table_reader;
  };
  // Either lock.
  Usage usage() const;
  Binlog* binlog() { return &binlog_; }
  // Why no write succeeds any more; empty.
  const std::string& fatal() const { return fatal_; }

  // Either lock, as the library's methods demand.
  rocksdb::DB* db() const { return db_.get(); }

 private:
  PikaStorage(const PikaStorage&);
  PikaStorage& operator=(const PikaStorage&);

  mutable pthread_rwlock_t lock_;
  Options options_;
  rocksdb::Options db_options_;
  std::string path_;
  std::unique_ptr<rocksdb::DB> db_;
  Binlog binlog_;
  std::string fatal_;
  uint64_t memtable_bytes_ = 0;
  uint64_t tables_ = 0;
};

#endif  // PIKA_STORAGE_H_
