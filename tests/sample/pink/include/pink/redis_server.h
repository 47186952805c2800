#ifndef PINK_REDIS_SERVER_H_
#define PINK_REDIS_SERVER_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "pink/redis_conn.h"
#include "pink/thread_pool.h"

namespace pink {

class ConnFactory {
 public:
  virtual ~ConnFactory() {}
  // nullptr refuses the client; *refusal is then sent to it.
  virtual std::shared_ptr<RedisConn> NewConn(int fd, const std::string& ip, int port,
                                             std::string* refusal) = 0;
};

// Poller threads wait for sockets, the pool's threads read, answer and write.
class RedisServer {
 public:
  struct Options {
    int port = 0;
    int pollers = 1;
    int workers = 1;
  };

  RedisServer(const Options& options, ConnFactory* factory);
  ~RedisServer() { Stop(); }

  // False, with a reason, if the port cannot be had.
  bool Start(std::string* error);
  // Finishes the requests at hand and closes all connections.
  void Stop();

  // May be changed while the server runs. 0 seconds: never.
  void set_idle_timeout(int64_t seconds);
  void set_max_request_bytes(size_t bytes) { max_request_bytes_ = bytes; }

  size_t connections() const;
  void ForEach(const std::function<void(const RedisConn&)>& visit) const;
  // Ends the connections for which it is true, and returns their number.
  size_t CloseIf(const std::function<bool(const RedisConn&)>& condition);

 private:
  struct Poller {
    int epoll = -1;
    std::thread thread;
  };

  void Poll(const Poller& poller, bool listens);
  void Accept();
  void Handle(const std::shared_ptr<RedisConn>& conn, int epoll);
  void Forget(const std::shared_ptr<RedisConn>& conn);
  int CloseIdle();

  const Options options_;
  ConnFactory* const factory_;
  ThreadPool pool_;
  std::vector<Poller> pollers_;
  size_t next_poller_ = 0;
  int listen_fd_ = -1;
  int wake_fd_ = -1;    // readable once the server stops
  int retime_fd_ = -1;  // readable after a change of the idle timeout
  std::atomic<bool> stopping_;
  std::atomic<int64_t> idle_timeout_;
  std::atomic<size_t> max_request_bytes_;

  mutable std::mutex conns_mutex_;
  // A socket is closed only by dropping its entry, so no entry's descriptor
  // can have been reused.
  std::map<int, std::shared_ptr<RedisConn>> conns_;
};

}  // namespace pink

#endif  // PINK_REDIS_SERVER_H_
