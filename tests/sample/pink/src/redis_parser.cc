#include "pink/redis_parser.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>

namespace pink {

namespace {

const long long kMaxArgs = 1024 * 1024;
const long long kMaxBulk = 512LL << 20;
const size_t kMaxLine = 64 << 10;
// Words for which there is room at once; that a client announces more costs nothing.
const long long kRoom = 64;

class Reader {
 public:
  Reader(const char* data, size_t size) : data_(data), size_(size) {}

  size_t used() const { return used_; }

  // A line without its line end, which may lack the \r.
  ParseResult Line(std::string* line) {
    const char* begin = data_ + used_;
    const void* found = memchr(begin, '\n', size_ - used_);
    if (found == nullptr) {
      return size_ - used_ > kMaxLine ? ParseResult::kError : ParseResult::kIncomplete;
    }
    const char* end = static_cast<const char*>(found);
    used_ += static_cast<size_t>(end - begin) + 1;
    if (end > begin && end[-1] == '\r') end--;
    line->assign(begin, end);
    return ParseResult::kDone;
  }

  ParseResult Bulk(size_t length, std::string* out) {
    if (size_ - used_ < length + 2) return ParseResult::kIncomplete;
    if (memcmp(data_ + used_ + length, "\r\n", 2) != 0) return ParseResult::kError;
    out->assign(data_ + used_, length);
    used_ += length + 2;
    return ParseResult::kDone;
  }

 private:
  const char* data_;
  size_t size_;
  size_t used_ = 0;
};

bool ParseLength(const std::string& line, long long limit, long long* length) {
  char* end = nullptr;
  *length = strtoll(line.c_str() + 1, &end, 10);
  // What lies beyond its range, strtoll turns into one of its ends.
  typedef std::numeric_limits<long long> Range;
  if (*length == Range::min() || *length == Range::max()) return false;
  return line.size() > 1 && *end == '\0' && *length <= limit;
}

void SplitWords(const std::string& line, RedisCmdArgs* args) {
  size_t begin = line.find_first_not_of(" \t");
  while (begin != std::string::npos) {
    const size_t end = line.find_first_of(" \t", begin);
    args->push_back(line.substr(begin, end == std::string::npos ? end : end - begin));
    begin = line.find_first_not_of(" \t", end);
  }
}

}  // namespace

ParseResult ParseRequest(const char* data, size_t size, size_t* used, RedisCmdArgs* args,
                         std::string* error) {
  Reader reader(data, size);
  args->clear();
  std::string line;
  ParseResult result = reader.Line(&line);
  if (result == ParseResult::kError) *error = "ERR Protocol error: too big inline request";
  if (result != ParseResult::kDone) return result;

  if (line.empty() || line[0] != '*') {
    SplitWords(line, args);
    *used = reader.used();
    return ParseResult::kDone;
  }

  long long count = 0;
  if (!ParseLength(line, kMaxArgs, &count)) {
    *error = "ERR Protocol error: invalid multibulk length";
    return ParseResult::kError;
  }
  if (count > 0) args->reserve(static_cast<size_t>(std::min(count, kRoom)));
  for (long long i = 0; i < count; i++) {
    result = reader.Line(&line);
    if (result == ParseResult::kIncomplete) return result;
    long long length = 0;
    if (result == ParseResult::kError || line.empty() || line[0] != '$') {
      *error = "ERR Protocol error: expected '$'";
      return ParseResult::kError;
    }
    if (!ParseLength(line, kMaxBulk, &length) || length < 0) {
      *error = "ERR Protocol error: invalid bulk length";
      return ParseResult::kError;
    }
    args->push_back(std::string());
    result = reader.Bulk(static_cast<size_t>(length), &args->back());
    if (result == ParseResult::kError) *error = "ERR Protocol error: expected CRLF after bulk";
    if (result != ParseResult::kDone) return result;
  }
  *used = reader.used();
  return ParseResult::kDone;
}

}  // namespace pink
