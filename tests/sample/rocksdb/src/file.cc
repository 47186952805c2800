#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format.h"

namespace rocksdb {

Status ReadAt(int fd, uint64_t offset, size_t size, char* data) {
  while (size > 0) {
    const ssize_t n = pread(fd, data, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Status::IOError("read");
    if (n == 0) return Status::Corruption("a file of the log ends too early");
    data += n;
    offset += static_cast<uint64_t>(n);
    size -= static_cast<size_t>(n);
  }
  return Status::OK();
}

Status ReadNumber(int fd, uint64_t offset, uint32_t* number) {
  char bytes[4];
  ssize_t n;
  do {
    n = pread(fd, bytes, sizeof(bytes), static_cast<off_t>(offset));
  } while (n < 0 && errno == EINTR);
  if (n < 0) return Status::IOError("read");
  *number = static_cast<uint32_t>(GetPart(bytes, static_cast<size_t>(n)));
  return Status::OK();
}

Status WriteAll(int fd, const char* data, size_t size) {
  while (size > 0) {
    const ssize_t n = write(fd, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Status::IOError("write");
    data += n;
    size -= static_cast<size_t>(n);
  }
  return Status::OK();
}

Status ReadFile(const std::string& path, std::string* content) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT ? Status::NotFound(path) : Status::IOError(path);
  struct stat info;
  Status s;
  if (fstat(fd, &info) != 0) {
    s = Status::IOError(path);
  } else {
    content->resize(static_cast<size_t>(info.st_size));
    if (!content->empty()) s = ReadAt(fd, 0, content->size(), &(*content)[0]);
  }
  close(fd);
  return s;
}

Status WriteFile(const std::string& path, const std::string& content) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return Status::IOError(path);
  Status s = WriteAll(fd, content.data(), content.size());
  if (close(fd) != 0 && s.ok()) s = Status::IOError(path);
  return s;
}

}  // namespace rocksdb
