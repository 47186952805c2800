// Files as the log needs them: whole reads and writes, errors as Status.
#ifndef ROCKSDB_SRC_FILE_H_
#define ROCKSDB_SRC_FILE_H_

#include <stdint.h>

#include <string>

#include "rocksdb/status.h"

namespace rocksdb {

Status ReadFile(const std::string& path, std::string* content);
Status WriteFile(const std::string& path, const std::string& content);
// Exactly `size` bytes at `offset`; fewer is a corruption.
Status ReadAt(int fd, uint64_t offset, size_t size, char* data);
// The number of four bytes at `offset`; what lies behind the end of the file
// counts as zero.
Status ReadNumber(int fd, uint64_t offset, uint32_t* number);
Status WriteAll(int fd, const char* data, size_t size);

}  // namespace rocksdb

#endif  // ROCKSDB_SRC_FILE_H_
