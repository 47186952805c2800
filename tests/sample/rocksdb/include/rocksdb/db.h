#ifndef ROCKSDB_DB_H_
#define ROCKSDB_DB_H_

#include <stdint.h>

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "rocksdb/segment_name.h"
#include "rocksdb/status.h"

namespace rocksdb {

// A place between two records of the log.
struct LogPosition {
  uint64_t segment = 0;
  uint64_t offset = 0;
};

inline bool operator==(const LogPosition& a, const LogPosition& b) {
  return a.segment == b.segment && a.offset == b.offset;
}

// Changes that are applied together or not at all: one batch is one record of
// the log. The serialised form is also what a replica receives.
class WriteBatch {
 public:
  void Put(const std::string& key, const std::string& value);
  void Delete(const std::string& key);
  // Drops everything. Must be the first change of its batch.
  void Clear();

  bool empty() const { return data_.empty(); }
  const std::string& data() const { return data_; }

  // Takes over a serialised batch; false if it is malformed.
  bool Assign(const std::string& data);
  void Append(const WriteBatch& other) { data_ += other.data_; }

 private:
  std::string data_;
};

// How larger values are packed. A codec that was not there at compile time packs
// nothing; a database may hold values of several.
enum class Compression { kNone, kSnappy, kZstd };

struct Options {
  uint64_t segment_bytes = 32 << 20;
  Compression compression = Compression::kNone;
};

// The end of the log, which readers in other threads wait for.
class LogTail {
 public:
  void Advance(const LogPosition& end);
  LogPosition end() const;
  // Returns the end once it differs from `seen`, or at once if *cancelled.
  LogPosition WaitPast(const LogPosition& seen, const bool* cancelled);
  // Sets *cancelled and wakes whoever waits.
  void Cancel(bool* cancelled);

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  LogPosition end_;
};

// Follows the log of a DB, which may go on writing. One thread at a time,
// except Cancel().
class LogReader {
 public:
  LogReader(const std::string& db_path, std::shared_ptr<LogTail> tail);
  ~LogReader();

  // NotFound if the log no longer (or not yet) holds that place.
  Status Seek(const LogPosition& position);
  // Waits for the next record. NotFound: the log was cleared away meanwhile.
  Status Next(std::string* batch);
  LogPosition position() const { return position_; }
  void Cancel();

 private:
  LogReader(const LogReader&);
  LogReader& operator=(const LogReader&);

  std::string db_path_;
  std::shared_ptr<LogTail> tail_;
  LogPosition position_;
  int fd_ = -1;
  bool cancelled_ = false;  // guarded by the tail's mutex
};

// Like a standard container: any number of const calls at the same time, or
// one that changes the database; the caller holds the lock.
class DB {
 public:
  static Status Open(const Options& options, const std::string& path,
                     std::unique_ptr<DB>* db);
  ~DB();

  // The record is in the kernel's hands when this returns, so that the end of
  // the process does not lose it.
  Status Write(const WriteBatch& batch);

  Status Get(const std::string& key, std::string* value) const;
  bool Contains(const std::string& key) const { return index_.count(key) != 0; }
  size_t size() const { return index_.size(); }

  // Visits keys with the prefix, in byte order, from `start` on (a full key,
  // prefix included), until the visitor says false.
  typedef std::function<bool(const std::string& key)> KeyVisitor;
  void Scan(const std::string& prefix, const std::string& start, const KeyVisitor& visit) const;

  // Ends the current segment: what ClosedSegments() names never changes again
  // and may be linked or copied. The next record goes to the returned place.
  Status Rotate(LogPosition* next);
  std::vector<std::string> ClosedSegments() const;

  // A random name, made with the database, by which replicas know its log.
  const std::string& identity() const { return identity_; }
  const std::string& path() const { return path_; }
  std::shared_ptr<LogTail> tail() const { return tail_; }
  uint64_t DiskBytes() const;

 private:
  struct Location {
    uint64_t offset = 0;
    uint32_t segment = 0;
    uint32_t size : 31;
    uint32_t compressed : 1;
  };
  struct Segment;

  DB(const Options& options, const std::string& path);
  DB(const DB&);
  DB& operator=(const DB&);

  Status LockFolder();
  Status LoadIdentity();
  Status LoadSegments();
  Status Replay(uint32_t number, bool is_last);
  Status StartSegment(uint32_t number);
  bool Apply(const char* batch, size_t size, uint32_t segment, uint64_t base);
  void DropSegmentsBefore(uint32_t number);
  std::string Compress(const std::string& batch) const;

  Options options_;
  std::string path_;
  std::string identity_;
  int lock_fd_;
  std::map<std::string, Location> index_;
  std::map<uint32_t, std::unique_ptr<Segment>> segments_;
  Segment* current_;
  uint32_t current_number_;
  std::shared_ptr<LogTail> tail_;
};

}  // namespace rocksdb

#endif  // ROCKSDB_DB_H_
