#include "pika_binlog.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "pika_util.h"

namespace {

const char kPrefix[] = "write2file";
// Replicas may be that many files behind.
const uint64_t kKept = 10;

std::string Length(size_t size) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(size >> shift);
  return bytes;
}

}  // namespace

Binlog::~Binlog() {
  if (fd_ >= 0) close(fd_);
}

std::string Binlog::FileName(uint64_t number) const {
  return folder_ + "/" + kPrefix + std::to_string(number);
}

bool Binlog::Open(const std::string& folder, uint64_t file_bytes, std::string* error) {
  folder_ = folder;
  file_bytes_ = file_bytes;
  if (!MakeFolders(folder)) {
    *error = folder + ": " + strerror(errno);
    return false;
  }
  uint64_t newest = 0;
  std::ifstream manifest(folder + "/manifest");
  const bool known = static_cast<bool>(manifest >> newest);
  if (OpenFile(newest, known)) return true;
  *error = FileName(newest) + ": " + strerror(errno);
  return false;
}

bool Binlog::OpenFile(uint64_t number, bool must_exist) {
  const int create = must_exist ? 0 : O_CREAT;
  const int fd = open(FileName(number).c_str(), O_WRONLY | O_APPEND | O_CLOEXEC | create, 0644);
  struct stat info;
  if (fd < 0 || fstat(fd, &info) != 0) return false;
  std::ofstream manifest(folder_ + "/manifest.tmp");
  manifest << number << "\n";
  manifest.close();
  const std::string name = folder_ + "/manifest";
  if (!manifest || rename((name + ".tmp").c_str(), name.c_str()) != 0) {
    close(fd);
    return false;
  }
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
  end_.file = number;
  end_.offset = static_cast<uint64_t>(info.st_size);
  return true;
}

bool Binlog::Append(const std::string& record) {
  if (!enabled_) return true;
  if (end_.offset >= file_bytes_) {
    if (!OpenFile(end_.file + 1, false)) return false;
    Expire();
  }
  const std::string bytes = Length(record.size()) + record;
  const ssize_t written = write(fd_, bytes.data(), bytes.size());
  if (written != static_cast<ssize_t>(bytes.size())) {
    if (written >= 0) errno = ENOSPC;
    const int reason = errno;
    if (ftruncate(fd_, static_cast<off_t>(end_.offset)) != 0) OpenFile(end_.file + 1, false);
    errno = reason;
    return false;
  }
  end_.offset += bytes.size();
  return true;
}

std::vector<uint64_t> Binlog::Numbers() const {
  std::vector<uint64_t> numbers;
  for (const std::string& name : ListFolder(folder_)) {
    int64_t number = 0;
    if (name.compare(0, sizeof(kPrefix) - 1, kPrefix) != 0) continue;
    if (!ParseInt(name.substr(sizeof(kPrefix) - 1), &number) || number < 0) continue;
    numbers.push_back(static_cast<uint64_t>(number));
  }
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

void Binlog::Expire() const {
  const std::vector<uint64_t> numbers = Numbers();
  const time_t oldest = time(nullptr) - static_cast<time_t>(keep_days_) * 86400;
  for (size_t i = 0; i + kKept < numbers.size(); i++) {
    const std::string name = FileName(numbers[i]);
    struct stat info;
    const bool many = numbers.size() - i > static_cast<size_t>(keep_files_);
    const bool old = stat(name.c_str(), &info) == 0 && info.st_mtime < oldest;
    if (!many && !old) break;
    unlink(name.c_str());
  }
}

std::string Binlog::SafetyPurge() const {
  return end_.file < kKept ? "none" : kPrefix + std::to_string(end_.file - kKept);
}
