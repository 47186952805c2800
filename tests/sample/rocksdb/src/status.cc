#include "rocksdb/status.h"

#include <errno.h>
#include <string.h>

namespace rocksdb {

Status Status::IOError(const std::string& what) {
  return Status(kIOError, what + ": " + strerror(errno));
}

std::string Status::ToString() const {
  switch (code_) {
    case kOk: return "OK";
    case kNotFound: return "not found: " + what_;
    case kCorruption: return "corruption: " + what_;
    case kIOError: return "I/O error: " + what_;
    case kCancelled: return what_;
  }
  return what_;
}

}  // namespace rocksdb
