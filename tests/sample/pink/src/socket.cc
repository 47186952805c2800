#include "pink/socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

namespace pink {

namespace {

const uint32_t kMaxMessage = 1u << 30;

// Between servers a dead peer sends nothing, so the kernel has to ask.
void KeepAlive(int fd) {
  const int on = 1, idle = 10, interval = 5, probes = 3;
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

// A number of `size` bytes, eight at most, the least significant first.
uint64_t LittleEndian(const unsigned char* bytes, size_t size) {
  uint64_t number = 0;
  if (size > 0) number |= static_cast<uint64_t>(bytes[0]);
  if (size > 1) number |= static_cast<uint64_t>(bytes[1]) << 8;
  if (size > 2) number |= static_cast<uint64_t>(bytes[2]) << 16;
  if (size > 3) number |= static_cast<uint64_t>(bytes[3]) << 24;
  if (size > 4) number |= static_cast<uint64_t>(bytes[4]) << 32;
  if (size > 5) number |= static_cast<uint64_t>(bytes[5]) << 40;
  if (size > 6) number |= static_cast<uint64_t>(bytes[6]) << 48;
  if (size > 7) number |= static_cast<uint64_t>(bytes[7]) << 56;
  return number;
}

// A number that the kernel keeps for a socket; -1 if it keeps none. How many of the
// bytes it fills is told by the kernel, too.
int SocketOption(int fd, int option) {
  unsigned char value[sizeof(int)];
  socklen_t size = sizeof(value);
  if (getsockopt(fd, SOL_SOCKET, option, value, &size) != 0) return -1;
  return static_cast<int>(LittleEndian(value, size));
}

}  // namespace

int ListenTcp(int port, std::string* error) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    *error = std::string("socket: ") + strerror(errno);
    return -1;
  }
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_in address;
  memset(&address, 0, sizeof(address));
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  address.sin_port = htons(static_cast<uint16_t>(port));
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(fd, 511) != 0) {
    *error = "port " + std::to_string(port) + ": " + strerror(errno);
    close(fd);
    return -1;
  }
  return fd;
}

bool PeerAddress(int fd, std::string* ip, int* port) {
  if (SocketOption(fd, SO_DOMAIN) != AF_INET) return false;
  sockaddr_in address;
  socklen_t size = sizeof(address);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return false;
  char text[INET_ADDRSTRLEN];
  if (inet_ntop(AF_INET, &address.sin_addr, text, sizeof(text)) == nullptr) return false;
  *ip = text;
  *port = ntohs(address.sin_port);
  return true;
}

MessageSocket::~MessageSocket() { close(fd_); }

std::shared_ptr<MessageSocket> MessageSocket::Connect(const std::string& ip, int port,
                                                      std::string* error) {
  sockaddr_in address;
  memset(&address, 0, sizeof(address));
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  if (inet_pton(AF_INET, ip.c_str(), &address.sin_addr) != 1) {
    *error = ip + " is not an IPv4 address";
    return nullptr;
  }
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    *error = std::string("socket: ") + strerror(errno);
    return nullptr;
  }
  std::shared_ptr<MessageSocket> connection(new MessageSocket(fd));
  // Connecting, and every later write, gives up after this time.
  timeval patience = {1, 0};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    *error = ip + ":" + std::to_string(port) + ": " + strerror(errno);
    return nullptr;
  }
  KeepAlive(fd);
  return connection;
}

bool MessageSocket::SendBytes(const char* data, size_t size) {
  while (size > 0) {
    const ssize_t n = send(fd_, data, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    data += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

bool MessageSocket::ReceiveBytes(char* data, size_t size) {
  while (size > 0) {
    const ssize_t n = recv(fd_, data, size, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    data += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

bool MessageSocket::Send(const std::string& message) {
  const uint32_t size = htonl(static_cast<uint32_t>(message.size()));
  std::string framed(reinterpret_cast<const char*>(&size), sizeof(size));
  framed += message;
  return SendBytes(framed.data(), framed.size());
}

bool MessageSocket::Receive(std::string* message) {
  uint32_t size = 0;
  if (!ReceiveBytes(reinterpret_cast<char*>(&size), sizeof(size))) return false;
  size = ntohl(size);
  if (size > kMaxMessage) return false;
  // In steps: a size that lies must not take memory for what never comes.
  const size_t kStep = 1 << 20;
  message->clear();
  while (message->size() < size) {
    const size_t have = message->size();
    const size_t step = size - have < kStep ? size - have : kStep;
    message->resize(have + step);
    if (!ReceiveBytes(&(*message)[have], step)) return false;
  }
  return true;
}

bool MessageSocket::HasInput() const {
  int bytes = 0;
  return ioctl(fd_, FIONREAD, &bytes) == 0 && bytes > 0;
}

void MessageSocket::Shutdown() { shutdown(fd_, SHUT_RDWR); }

bool MessageServer::Start(std::string* error) {
  listen_fd_ = ListenTcp(port_, error);
  if (listen_fd_ < 0) return false;
  thread_ = std::thread(&MessageServer::Accept, this);
  return true;
}

void MessageServer::Accept() {
  for (;;) {
    const int fd = accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC);
    std::lock_guard<std::mutex> lock(mutex_);
    if (stopping_) {
      if (fd >= 0) close(fd);
      return;
    }
    JoinFinished();
    if (fd < 0) continue;
    KeepAlive(fd);
    sessions_.emplace_back();
    Session* session = &sessions_.back();
    session->socket.reset(new MessageSocket(fd));
    session->thread = std::thread([this, session] {
      serve_(session->socket);
      session->socket->Shutdown();
      std::lock_guard<std::mutex> done_lock(mutex_);
      session->done = true;
    });
  }
}

void MessageServer::JoinFinished() {
  for (auto it = sessions_.begin(); it != sessions_.end();) {
    if (it->done) {
      it->thread.join();
      it = sessions_.erase(it);
    } else {
      ++it;
    }
  }
}

void MessageServer::Stop() {
  if (listen_fd_ < 0) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    for (Session& session : sessions_) session.socket->Shutdown();
  }
  // Wakes accept() on Linux.
  shutdown(listen_fd_, SHUT_RDWR);
  thread_.join();
  for (Session& session : sessions_) session.thread.join();
  sessions_.clear();
  close(listen_fd_);
  listen_fd_ = -1;
}

}  // namespace pink
