#include "rocksdb/db.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <random>

#include "file.h"
#include "format.h"
#include "rocksdb/checksum.h"

namespace rocksdb {

struct DB::Segment {
  explicit Segment(int file) : fd(file) {}
  ~Segment() { close(fd); }

  int fd;
  uint64_t size = 0;
};

DB::DB(const Options& options, const std::string& path)
    : options_(options),
      path_(path),
      lock_fd_(-1),
      current_(nullptr),
      current_number_(0),
      tail_(std::make_shared<LogTail>()) {}

DB::~DB() {
  // An empty segment would only make the next start number one more.
  if (current_ != nullptr && current_->size == 0) {
    unlink((path_ + "/" + SegmentName(current_number_)).c_str());
  }
  if (lock_fd_ >= 0) close(lock_fd_);
}

Status DB::Open(const Options& options, const std::string& path, std::unique_ptr<DB>* db) {
  std::unique_ptr<DB> opened(new DB(options, path));
  Status s = opened->LockFolder();
  if (s.ok()) s = opened->LoadIdentity();
  if (s.ok()) s = opened->LoadSegments();
  if (s.ok()) *db = std::move(opened);
  return s;
}

Status DB::LockFolder() {
  const std::string name = path_ + "/LOCK";
  lock_fd_ = open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_fd_ < 0) return Status::IOError(name);
  if (flock(lock_fd_, LOCK_EX | LOCK_NB) != 0) return Status::IOError("lock " + name);
  return Status::OK();
}

Status DB::LoadIdentity() {
  const std::string name = path_ + "/IDENTITY";
  const Status s = ReadFile(name, &identity_);
  if (!s.IsNotFound()) return s;

  static const char kDigits[] = "0123456789abcdef";
  std::random_device random;
  identity_.clear();
  for (int i = 0; i < 40; i++) identity_.push_back(kDigits[random() % 16]);
  return WriteFile(name, identity_);
}

Status DB::LoadSegments() {
  DIR* folder = opendir(path_.c_str());
  if (folder == nullptr) return Status::IOError(path_);
  std::vector<uint64_t> numbers;
  while (const dirent* entry = readdir(folder)) {
    const uint64_t number = SegmentNumber(entry->d_name);
    if (number != 0) numbers.push_back(number);
  }
  closedir(folder);
  std::sort(numbers.begin(), numbers.end());

  for (size_t i = 0; i < numbers.size(); i++) {
    const bool is_last = i + 1 == numbers.size();
    const Status s = Replay(static_cast<uint32_t>(numbers[i]), is_last);
    if (!s.ok()) return s;
  }

  // Never append to a file of an earlier run: it may be a hard link that is
  // part of a dump. An empty one was never linked, so its number is free.
  uint32_t number = numbers.empty() ? 1 : static_cast<uint32_t>(numbers.back()) + 1;
  if (!segments_.empty() && segments_.rbegin()->second->size == 0) {
    number = segments_.rbegin()->first;
    segments_.erase(number);
  }
  return StartSegment(number);
}

// Reads one segment into the index. What follows the last whole record of the
// newest segment is the write during which the process ended: it was never
// acknowledged, and is cut off. In an older segment it is damage.
Status DB::Replay(uint32_t number, bool is_last) {
  const std::string name = path_ + "/" + SegmentName(number);
  std::string content;
  const Status s = ReadFile(name, &content);
  if (!s.ok()) return s;

  const int fd = open(name.c_str(), is_last ? O_RDWR | O_CLOEXEC : O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Status::IOError(name);
  Segment* segment = new Segment(fd);
  segments_[number].reset(segment);

  size_t offset = 0;
  while (content.size() - offset >= kRecordHeader) {
    const uint32_t sum = GetNumber(content.data() + offset);
    const uint32_t size = GetNumber(content.data() + offset + 4);
    const size_t base = offset + kRecordHeader;
    if (content.size() - base < size) break;
    if (size == 0 || Checksum(content.data() + base, size) != sum) break;
    if (!Apply(content.data() + base, size, number, base)) break;
    offset = base + size;
  }
  if (offset != content.size()) {
    if (!is_last) return Status::Corruption(name);
    if (ftruncate(fd, static_cast<off_t>(offset)) != 0) return Status::IOError(name);
  }
  segment->size = offset;
  return Status::OK();
}

Status DB::StartSegment(uint32_t number) {
  const std::string name = path_ + "/" + SegmentName(number);
  const int fd = open(name.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return Status::IOError(name);
  current_ = new Segment(fd);
  current_number_ = number;
  segments_[number].reset(current_);
  LogPosition start;
  start.segment = number;
  tail_->Advance(start);
  return Status::OK();
}

Status DB::Rotate(LogPosition* next) {
  if (current_->size > 0) {
    const Status s = StartSegment(current_number_ + 1);
    if (!s.ok()) return s;
  }
  if (next != nullptr) *next = tail_->end();
  return Status::OK();
}

std::vector<std::string> DB::ClosedSegments() const {
  std::vector<std::string> names;
  for (const auto& segment : segments_) {
    if (segment.second.get() != current_) names.push_back(SegmentName(segment.first));
  }
  return names;
}

uint64_t DB::DiskBytes() const {
  uint64_t total = 0;
  for (const auto& segment : segments_) total += segment.second->size;
  for (const std::string& name : {"IDENTITY", "LOCK"}) {
    struct stat info;
    if (stat((path_ + "/" + name).c_str(), &info) != 0) continue;
    total += static_cast<uint64_t>(info.st_size);
  }
  return total;
}

Status DB::Write(const WriteBatch& batch) {
  if (batch.empty()) return Status::OK();
  const std::string data = Compress(batch.data());
  if (data.size() > kMaxBatch) {
    errno = EFBIG;
    return Status::IOError("write");
  }
  // A cleared log starts a segment of its own, so that the ones before it can
  // be removed.
  if (data[0] == kClear || current_->size >= options_.segment_bytes) {
    const Status s = Rotate(nullptr);
    if (!s.ok()) return s;
  }

  std::string record;
  record.reserve(kRecordHeader + data.size());
  PutNumber(&record, Checksum(data));
  PutNumber(&record, static_cast<uint32_t>(data.size()));
  record += data;
  const Status s = WriteAll(current_->fd, record.data(), record.size());
  if (!s.ok()) {
    // Half a record would hide all later ones at the next start.
    if (ftruncate(current_->fd, static_cast<off_t>(current_->size)) != 0) {
      StartSegment(current_number_ + 1);
    }
    return s;
  }

  const uint64_t base = current_->size + kRecordHeader;
  current_->size += record.size();
  if (!Apply(data.data(), data.size(), current_number_, base)) {
    return Status::Corruption("malformed batch");
  }
  LogPosition end;
  end.segment = current_number_;
  end.offset = current_->size;
  tail_->Advance(end);
  return Status::OK();
}

bool DB::Apply(const char* batch, size_t size, uint32_t segment, uint64_t base) {
  // A malformed batch must change nothing, so look at all of it first.
  BatchCursor cursor(batch, size);
  while (cursor.Next()) {
  }
  if (!cursor.ok()) return false;

  cursor = BatchCursor(batch, size);
  while (cursor.Next()) {
    switch (cursor.change()) {
      case kPut:
      case kPutCompressed: {
        Location location;
        memset(&location, 0, sizeof(location));
        location.offset = base + cursor.value_offset();
        location.segment = segment;
        location.size = static_cast<uint32_t>(cursor.value_size()) & 0x7FFFFFFFu;
        location.compressed = cursor.change() == kPutCompressed;
        index_[cursor.key()] = location;
        break;
      }
      case kDelete:
        index_.erase(cursor.key());
        break;
      case kClear:
        index_.clear();
        DropSegmentsBefore(segment);
        break;
    }
  }
  return true;
}

void DB::DropSegmentsBefore(uint32_t number) {
  while (!segments_.empty() && segments_.begin()->first < number) {
    unlink((path_ + "/" + SegmentName(segments_.begin()->first)).c_str());
    segments_.erase(segments_.begin());
  }
}

Status DB::Get(const std::string& key, std::string* value) const {
  const auto found = index_.find(key);
  if (found == index_.end()) return Status::NotFound("key");
  const Location& location = found->second;
  const auto segment = segments_.find(location.segment);
  if (segment == segments_.end()) return Status::Corruption("index names a missing segment");

  std::string stored(location.size, '\0');
  if (!stored.empty()) {
    const Status s = ReadAt(segment->second->fd, location.offset, stored.size(), &stored[0]);
    if (!s.ok()) return s;
  }
  if (!location.compressed) {
    value->swap(stored);
  } else if (!Uncompress(stored.data(), stored.size(), value)) {
    return Status::Corruption("compressed value");
  }
  return Status::OK();
}

void DB::Scan(const std::string& prefix, const std::string& start, const KeyVisitor& visit) const {
  for (auto it = index_.lower_bound(std::max(prefix, start)); it != index_.end(); ++it) {
    if (it->first.compare(0, prefix.size(), prefix) != 0) break;
    if (!visit(it->first)) break;
  }
}

}  // namespace rocksdb
