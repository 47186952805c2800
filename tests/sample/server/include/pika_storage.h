#ifndef PIKA_STORAGE_H_
#define PIKA_STORAGE_H_

#include <pthread.h>

#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

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

  // Opens the database in `folder`/db0.
  rocksdb::Status Open(const std::string& folder, rocksdb::Compression compression);
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
  void Commit(const rocksdb::WriteBatch& batch);

  // Either lock, as the library's methods demand.
  rocksdb::DB* db() const { return db_.get(); }

 private:
  PikaStorage(const PikaStorage&);
  PikaStorage& operator=(const PikaStorage&);

  mutable pthread_rwlock_t lock_;
  rocksdb::Options options_;
  std::string path_;
  std::unique_ptr<rocksdb::DB> db_;
};

#endif  // PIKA_STORAGE_H_
