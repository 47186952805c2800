#include "pink/redis_server.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "pink/socket.h"

namespace pink {

namespace {

const int kEventsPerWait = 64;

bool Watch(int epoll, int operation, int fd, uint32_t events) {
  epoll_event event;
  memset(&event, 0, sizeof(event));
  event.events = events;
  event.data.fd = fd;
  return epoll_ctl(epoll, operation, fd, &event) == 0;
}

// What one call of epoll_wait tells.
struct Ready {
  epoll_event events[kEventsPerWait];
  int count = 0;
};

// A time on the monotonic clock, in seconds.
class Moment {
 public:
  explicit Moment(int64_t seconds) : seconds_(seconds) {}
  Moment(const Moment& other) : seconds_(other.seconds_) {}

  Moment After(int64_t seconds) const { return Moment(seconds_ + seconds); }
  int64_t Since(const Moment& other) const { return seconds_ - other.seconds_; }
  bool operator<(const Moment& other) const { return seconds_ < other.seconds_; }

 private:
  int64_t seconds_;
};

std::string Reason(const char* call) {
  std::string reason(call);
  reason += ": ";
  reason += strerror(errno);
  return std::move(reason);
}

}  // namespace

RedisServer::RedisServer(const Options& options, ConnFactory* factory)
    : options_(options),
      factory_(factory),
      pool_(static_cast<size_t>(std::max(1, options.workers))),
      stopping_(false),
      idle_timeout_(0),
      max_request_bytes_(256 << 20) {}

bool RedisServer::Start(std::string* error) {
  listen_fd_ = ListenTcp(options_.port, error);
  if (listen_fd_ < 0) return false;
  fcntl(listen_fd_, F_SETFL, fcntl(listen_fd_, F_GETFL) | O_NONBLOCK);
  wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  retime_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

  pollers_.resize(static_cast<size_t>(std::max(1, options_.pollers)));
  for (Poller& poller : pollers_) {
    poller.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (wake_fd_ < 0 || poller.epoll < 0 || !Watch(poller.epoll, EPOLL_CTL_ADD, wake_fd_, EPOLLIN)) {
      *error = Reason("epoll");
      return false;
    }
  }
  Watch(pollers_[0].epoll, EPOLL_CTL_ADD, listen_fd_, EPOLLIN);
  Watch(pollers_[0].epoll, EPOLL_CTL_ADD, retime_fd_, EPOLLIN);
  for (size_t i = 0; i < pollers_.size(); i++) {
    pollers_[i].thread = std::thread([this, i] { Poll(pollers_[i], i == 0); });
  }
  return true;
}

void RedisServer::Stop() {
  if (stopping_.exchange(true)) return;
  if (wake_fd_ >= 0) {
    // Never read back, so that it wakes every poller.
    const uint64_t one = 1;
    if (write(wake_fd_, &one, sizeof(one)) < 0) return;
  }
  for (Poller& poller : pollers_) {
    if (poller.thread.joinable()) poller.thread.join();
  }
  pool_.Stop();
  for (Poller& poller : pollers_) close(poller.epoll);
  if (wake_fd_ >= 0) close(wake_fd_);
  if (retime_fd_ >= 0) close(retime_fd_);
  if (listen_fd_ >= 0) close(listen_fd_);
  std::lock_guard<std::mutex> lock(conns_mutex_);
  conns_.clear();
}

void RedisServer::Poll(const Poller& poller, bool listens) {
  Ready ready;
  while (!stopping_) {
    memset(&ready, 0, sizeof(ready));
    // Only the listening poller looks after idle clients, and only if there is
    // a time limit; without one everybody sleeps until something happens.
    const int patience = listens ? CloseIdle() : -1;
    ready.count = epoll_wait(poller.epoll, ready.events, kEventsPerWait, patience);
    for (int i = 0; i < ready.count && !stopping_; i++) {
      const int fd = ready.events[i].data.fd;
      if (fd == wake_fd_) continue;
      if (fd == retime_fd_) {
        uint64_t count_of_changes;
        if (read(retime_fd_, &count_of_changes, sizeof(count_of_changes)) < 0) continue;
        continue;
      }
      if (fd == listen_fd_) {
        Accept();
        continue;
      }
      std::shared_ptr<RedisConn> conn;
      {
        std::lock_guard<std::mutex> lock(conns_mutex_);
        const auto found = conns_.find(fd);
        if (found != conns_.end()) conn = found->second;
      }
      const int epoll = poller.epoll;
      if (conn) pool_.Schedule([this, conn, epoll] { Handle(conn, epoll); });
    }
  }
}

void RedisServer::Accept() {
  for (;;) {
    const int fd = accept4(listen_fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    std::string ip, refusal;
    int port = 0;
    std::shared_ptr<RedisConn> conn;
    if (PeerAddress(fd, &ip, &port)) conn = factory_->NewConn(fd, ip, port, &refusal);
    if (!conn) {
      send(fd, refusal.data(), refusal.size(), MSG_NOSIGNAL);
      close(fd);
      continue;
    }
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    {
      std::lock_guard<std::mutex> lock(conns_mutex_);
      conns_[fd] = conn;
    }
    const Poller& poller = pollers_[next_poller_++ % pollers_.size()];
    // One shot: the connection belongs to one pool thread until that thread
    // asks for the next event.
    if (!Watch(poller.epoll, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLONESHOT)) Forget(conn);
  }
}

void RedisServer::Handle(const std::shared_ptr<RedisConn>& conn, int epoll) {
  bool wants_to_write = false;
  bool keep = conn->HandleEvent(max_request_bytes_, &wants_to_write);
  if (keep) {
    const uint32_t events = EPOLLIN | EPOLLONESHOT | (wants_to_write ? EPOLLOUT : 0u);
    keep = Watch(epoll, EPOLL_CTL_MOD, conn->fd(), events);
  }
  if (!keep) Forget(conn);
}

void RedisServer::Forget(const std::shared_ptr<RedisConn>& conn) {
  // The descriptor closes with the last reference; until then its number is not
  // reused, and the client must see the end now.
  shutdown(conn->fd(), SHUT_RDWR);
  std::lock_guard<std::mutex> lock(conns_mutex_);
  conns_.erase(conn->fd());
}

void RedisServer::set_idle_timeout(int64_t seconds) {
  idle_timeout_ = seconds;
  // The listening poller may be asleep without a limit.
  const uint64_t one = 1;
  if (retime_fd_ >= 0 && write(retime_fd_, &one, sizeof(one)) < 0) return;
}

// Returns the milliseconds until it has to be called again; -1: never.
int RedisServer::CloseIdle() {
  const int64_t limit = idle_timeout_;
  if (limit <= 0) return -1;
  const Moment now(MonotonicSeconds());
  Moment soonest = now.After(std::min<int64_t>(limit, 3600));
  CloseIf([&](const RedisConn& conn) {
    const Moment end = Moment(conn.last_active()).After(limit);
    if (!(now < end)) return true;
    if (end < soonest) soonest = end;
    return false;
  });
  return static_cast<int>(soonest.Since(now) * 1000);
}

size_t RedisServer::connections() const {
  std::lock_guard<std::mutex> lock(conns_mutex_);
  return conns_.size();
}

void RedisServer::ForEach(const std::function<void(const RedisConn&)>& visit) const {
  std::lock_guard<std::mutex> lock(conns_mutex_);
  for (const std::pair<int, std::shared_ptr<RedisConn>>& conn : conns_) visit(*conn.second);
}

size_t RedisServer::CloseIf(const std::function<bool(const RedisConn&)>& condition) {
  std::lock_guard<std::mutex> lock(conns_mutex_);
  size_t closed = 0;
  for (const auto& conn : conns_) {
    if (!condition(*conn.second)) continue;
    // Its own event then ends it, in the thread that it belongs to.
    shutdown(conn.second->fd(), SHUT_RDWR);
    closed++;
  }
  return closed;
}

}  // namespace pink
