#ifndef PIKA_BINLOG_H_
#define PIKA_BINLOG_H_

#include <stdint.h>
#include <time.h>

#include <atomic>
#include <string>
#include <vector>

// Every change of the database, in files write2fileN of one folder, and the
// file `manifest`, which names the newest. A start without the newest fails.
//
// Methods demand the storage's lock: Append() that of writers.
class Binlog {
 public:
  struct Position {
    uint64_t file = 0;
    uint64_t offset = 0;
  };

  Binlog() : enabled_(true), keep_files_(10), keep_days_(7) {}
  ~Binlog();

  bool Open(const std::string& folder, uint64_t file_bytes, std::string* error);
  void set_enabled(bool enabled) { enabled_ = enabled; }
  // Which files go where a new one begins: all but so many, and those that were
  // not written to for so many days; never one of the newest ten.
  void set_limits(int64_t files, int64_t days) {
    keep_files_ = files;
    keep_days_ = days;
  }

  // False, with errno: the record is not there, not even half of it.
  bool Append(const std::string& record);

  Position end() const { return end_; }
  // The newest file that nobody needs any more; "none".
  std::string SafetyPurge() const;

 private:
  Binlog(const Binlog&);
  Binlog& operator=(const Binlog&);

  std::string FileName(uint64_t number) const;
  bool OpenFile(uint64_t number, bool must_exist);
  void Expire() const;
  std::vector<uint64_t> Numbers() const;

  std::atomic<bool> enabled_;
  std::atomic<int64_t> keep_files_;
  std::atomic<int64_t> keep_days_;
  std::string folder_;
  uint64_t file_bytes_ = 0;
  int fd_ = -1;
  Position end_;
};

#endif  // PIKA_BINLOG_H_
