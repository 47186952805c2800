#ifndef ROCKSDB_STATUS_H_
#define ROCKSDB_STATUS_H_

#include <string>

namespace rocksdb {

class Status {
 public:
  enum Code { kOk, kNotFound, kCorruption, kIOError, kCancelled };

  Status() : code_(kOk) {}

  static Status OK() { return Status(); }
  static Status NotFound(const std::string& what) { return Status(kNotFound, what); }
  static Status Corruption(const std::string& what) { return Status(kCorruption, what); }
  // Adds errno's text to `what`.
  static Status IOError(const std::string& what);
  static Status Cancelled() { return Status(kCancelled, "cancelled"); }

  bool ok() const { return code_ == kOk; }
  bool IsNotFound() const { return code_ == kNotFound; }
  bool IsCancelled() const { return code_ == kCancelled; }
  std::string ToString() const;

 private:
  Status(Code code, const std::string& what) : code_(code), what_(what) {}

  Code code_;
  std::string what_;
};

}  // namespace rocksdb

#endif  // ROCKSDB_STATUS_H_
