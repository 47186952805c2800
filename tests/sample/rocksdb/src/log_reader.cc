#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "file.h"
#include "format.h"
#include "rocksdb/checksum.h"
#include "rocksdb/db.h"

namespace rocksdb {

void LogTail::Advance(const LogPosition& end) {
  std::lock_guard<std::mutex> lock(mutex_);
  end_ = end;
  changed_.notify_all();
}

LogPosition LogTail::end() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return end_;
}

LogPosition LogTail::WaitPast(const LogPosition& seen, const bool* cancelled) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return *cancelled || !(end_ == seen); });
  return end_;
}

void LogTail::Cancel(bool* cancelled) {
  std::lock_guard<std::mutex> lock(mutex_);
  *cancelled = true;
  changed_.notify_all();
}

LogReader::LogReader(const std::string& db_path, std::shared_ptr<LogTail> tail)
    : db_path_(db_path), tail_(std::move(tail)) {}

LogReader::~LogReader() {
  if (fd_ >= 0) close(fd_);
}

void LogReader::Cancel() { tail_->Cancel(&cancelled_); }

Status LogReader::Seek(const LogPosition& position) {
  const LogPosition end = tail_->end();
  if (position.segment > end.segment ||
      (position.segment == end.segment && position.offset > end.offset)) {
    return Status::NotFound("position is beyond the end of the log");
  }
  const std::string name = db_path_ + "/" + SegmentName(position.segment);
  const int fd = open(name.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT ? Status::NotFound(name) : Status::IOError(name);
  const off_t size = lseek(fd, 0, SEEK_END);
  if (size < 0 || static_cast<uint64_t>(size) < position.offset) {
    close(fd);
    return Status::NotFound("position is beyond the end of " + name);
  }
  // A place that some other log has told is rarely the beginning of a record.
  uint32_t next = 0;
  Status s = ReadNumber(fd, position.offset + 4, &next);
  if (s.ok() && next > kMaxBatch) s = Status::NotFound("no record begins there in " + name);
  if (!s.ok()) {
    close(fd);
    return s;
  }
  if (fd_ >= 0) close(fd_);
  fd_ = fd;
  position_ = position;
  return Status::OK();
}

Status LogReader::Next(std::string* batch) {
  for (;;) {
    const LogPosition end = tail_->WaitPast(position_, &cancelled_);
    // Only this thread's owner sets it, and the tail's lock was just held.
    if (end == position_) return Status::Cancelled();

    // A segment that is no longer the newest is complete.
    if (position_.segment < end.segment) {
      const off_t size = lseek(fd_, 0, SEEK_END);
      if (size < 0) return Status::IOError("seek");
      if (position_.offset >= static_cast<uint64_t>(size)) {
        LogPosition next;
        next.segment = position_.segment + 1;
        const Status s = Seek(next);
        if (!s.ok()) return s;
        continue;
      }
    }

    char header[kRecordHeader];
    Status s = ReadAt(fd_, position_.offset, sizeof(header), header);
    if (!s.ok()) return s;
    batch->resize(GetNumber(header + 4));
    if (batch->empty() || batch->size() > kMaxBatch) return Status::Corruption("record size");
    s = ReadAt(fd_, position_.offset + kRecordHeader, batch->size(), &(*batch)[0]);
    if (!s.ok()) return s;
    if (Checksum(*batch) != GetNumber(header)) {
      return Status::Corruption("record checksum");
    }
    position_.offset += kRecordHeader + batch->size();
    return Status::OK();
  }
}

}  // namespace rocksdb
