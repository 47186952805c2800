#ifndef PINK_SOCKET_H_
#define PINK_SOCKET_H_

#include <stdint.h>

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

namespace pink {

// A socket that listens on all addresses; -1 with a reason on failure.
int ListenTcp(int port, std::string* error);

// The numeric address of the other side.
bool PeerAddress(int fd, std::string* ip, int* port);

// A blocking connection that carries messages, each behind its length.
class MessageSocket {
 public:
  explicit MessageSocket(int fd) : fd_(fd) {}
  ~MessageSocket();

  static std::shared_ptr<MessageSocket> Connect(const std::string& ip, int port,
                                                std::string* error);

  bool Send(const std::string& message);
  bool Receive(std::string* message);
  // Plain bytes between messages, for the content of files.
  bool SendBytes(const char* data, size_t size);
  bool ReceiveBytes(char* data, size_t size);
  // Whether there is more to receive without waiting.
  bool HasInput() const;
  // Makes the calls that wait, in whatever thread, fail.
  void Shutdown();

  int fd() const { return fd_; }

 private:
  MessageSocket(const MessageSocket&);
  MessageSocket& operator=(const MessageSocket&);
  const int fd_;
};

// Accepts connections and serves each in a thread of its own: for the few
// long-lived ones between servers.
class MessageServer {
 public:
  typedef std::function<void(const std::shared_ptr<MessageSocket>&)> Serve;

  MessageServer(int port, const Serve& serve) : port_(port), serve_(serve) {}
  ~MessageServer() { Stop(); }

  bool Start(std::string* error);
  void Stop();

 private:
  struct Session {
    std::shared_ptr<MessageSocket> socket;
    std::thread thread;
    bool done = false;
  };

  void Accept();
  void JoinFinished();

  const int port_;
  const Serve serve_;
  int listen_fd_ = -1;
  std::thread thread_;
  std::mutex mutex_;
  bool stopping_ = false;
  std::list<Session> sessions_;
};

}  // namespace pink

#endif  // PINK_SOCKET_H_
