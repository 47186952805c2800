#ifndef PINK_REDIS_CONN_H_
#define PINK_REDIS_CONN_H_

#include <stdint.h>

#include <atomic>
#include <mutex>
#include <string>

#include "pink/redis_parser.h"

namespace pink {

// One client. A server's own connections derive from it and answer requests.
// Only one thread at a time handles events of a connection.
class RedisConn {
 public:
  RedisConn(int fd, const std::string& ip, int port);
  virtual ~RedisConn();

  // Appends the reply to one request, which has at least one word. False: close
  // the connection once the reply is sent.
  virtual bool DealMessage(const RedisCmdArgs& args, std::string* reply) = 0;

  int fd() const { return fd_; }
  const std::string& ip() const { return ip_; }
  int port() const { return port_; }
  // Seconds on the monotonic clock.
  int64_t last_active() const { return last_active_; }

  // Reads, answers and writes as far as the socket allows. False: close it.
  bool HandleEvent(size_t max_request_bytes, bool* wants_to_write);

 private:
  RedisConn(const RedisConn&);
  RedisConn& operator=(const RedisConn&);

  bool Read(bool* peer_closed);
  bool Answer(size_t max_request_bytes);
  bool Write();
  bool HasUnsent() const { return sent_ < out_.size(); }

  const int fd_;
  const std::string ip_;
  const int port_;
  std::atomic<int64_t> last_active_;
  // Never contended. The kernel hands the connection from thread to thread, and
  // the language's memory model knows nothing of that.
  std::mutex handling_;
  std::string in_;
  std::string out_;
  size_t sent_ = 0;
  bool closing_ = false;
};

int64_t MonotonicSeconds();

}  // namespace pink

#endif  // PINK_REDIS_CONN_H_
