#include "pink/redis_conn.h"

#include <errno.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

namespace pink {

namespace {

// One event reads at most this much, so that a flood from one client does not
// keep a thread from the others.
const size_t kReadChunk = 16 << 10;
const int kReadsPerEvent = 64;

// A client that sends without ever reading must not take all memory.
const size_t kMaxUnsent = 256 << 20;

// A buffer that was once large is given back when it is empty.
const size_t kKeepCapacity = 64 << 10;

void Recycle(std::string* buffer) {
  buffer->clear();
  if (buffer->capacity() > kKeepCapacity) std::string().swap(*buffer);
}

}  // namespace

int64_t MonotonicSeconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec;
}

RedisConn::RedisConn(int fd, const std::string& ip, int port)
    : fd_(fd), ip_(ip), port_(port), last_active_(MonotonicSeconds()) {}

RedisConn::~RedisConn() { close(fd_); }

bool RedisConn::HandleEvent(size_t max_request_bytes, bool* wants_to_write) {
  std::lock_guard<std::mutex> lock(handling_);
  last_active_ = MonotonicSeconds();
  bool peer_closed = false;
  if (!Read(&peer_closed)) return false;
  if (closing_) {
    Recycle(&in_);  // read, or it would wake this connection again at once
  } else {
    closing_ = !Answer(max_request_bytes);
  }
  if (!Write()) return false;
  *wants_to_write = HasUnsent();
  return !peer_closed && (!closing_ || HasUnsent());
}

bool RedisConn::Read(bool* peer_closed) {
  char chunk[kReadChunk];
  for (int i = 0; i < kReadsPerEvent; i++) {
    const ssize_t n = recv(fd_, chunk, sizeof(chunk), 0);
    if (n > 0) {
      in_.append(chunk, static_cast<size_t>(n));
      if (static_cast<size_t>(n) < sizeof(chunk)) return true;
    } else if (n == 0) {
      *peer_closed = true;
      return true;
    } else if (errno != EINTR) {
      return errno == EAGAIN || errno == EWOULDBLOCK;
    }
  }
  return true;
}

// Answers what has arrived. False: close the connection after the reply.
bool RedisConn::Answer(size_t max_request_bytes) {
  RedisCmdArgs args;
  std::string error;
  size_t used = 0;
  const ParseResult result = ParseRequest(in_.data(), in_.size(), &used, &args, &error);
  if (result == ParseResult::kError) {
    out_ += "-" + error + "\r\n";
    return false;
  }
  if (result == ParseResult::kIncomplete) {
    if (in_.size() <= max_request_bytes) return true;
    out_ += "-ERR Protocol error: request is larger than max-conn-rbuf-size\r\n";
    return false;
  }
  in_.erase(0, used);
  if (in_.empty()) Recycle(&in_);
  return args.empty() || DealMessage(args, &out_);
}

bool RedisConn::Write() {
  while (HasUnsent()) {
    const ssize_t n = send(fd_, out_.data() + sent_, out_.size() - sent_, MSG_NOSIGNAL);
    if (n >= 0) {
      sent_ += static_cast<size_t>(n);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return out_.size() - sent_ < kMaxUnsent;
    } else if (errno != EINTR) {
      return false;
    }
  }
  Recycle(&out_);
  sent_ = 0;
  return true;
}

}  // namespace pink
