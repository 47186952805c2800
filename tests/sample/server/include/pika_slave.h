#ifndef PIKA_SLAVE_H_
#define PIKA_SLAVE_H_

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "pika_conf.h"
#include "pika_storage.h"
#include "pink/socket.h"

class PikaMaster;

namespace sample {
namespace inner {
class Hello;
}
}  // namespace sample

// What this server does as a replica: follows the log of a master, after
// copying its files where that log does not reach back far enough.
class PikaSlave {
 public:
  PikaSlave(const PikaConf* conf, PikaStorage* storage, PikaMaster* own_replicas);
  ~PikaSlave() { Stop(); }

  // Takes the place of a master that is followed already.
  void Follow(const std::string& ip, int port);
  // Ends following, and forgets how far it came: what is written from now on
  // is not in the master's log.
  void Leave();
  // Ends following for now, as at the end of the process.
  void Stop();

  enum State { kNoConnect, kTryConnect, kTryDBSync, kWaitDBSync, kConnected, kError };
  static const char* StateName(State state);

  bool following() const { return following_; }
  struct Info {
    std::string ip;
    int port;
    State state;
  };
  Info info() const;

 private:
  void Run();
  // Follows one connection to its end. True: come again at once, there are new
  // files to go on from.
  bool FollowLog();
  bool CopyFiles();
  bool ReceiveFiles(pink::MessageSocket* socket, const std::string& folder,
                    std::string* identity, rocksdb::LogPosition* position);
  void ApplyRecords(pink::MessageSocket* socket, const std::string& identity);
  sample::inner::Hello MakeHello() const;
  std::shared_ptr<pink::MessageSocket> Connect(int port);
  void SetState(State state);

  const PikaConf* const conf_;
  PikaStorage* const storage_;
  PikaMaster* const own_replicas_;

  std::mutex control_mutex_;  // one change of the master at a time
  std::thread thread_;
  std::atomic<bool> following_;

  mutable std::mutex mutex_;  // of what follows
  std::condition_variable stop_requested_;
  bool stopping_ = false;
  std::string ip_;
  int port_ = 0;
  State state_ = kNoConnect;
  std::shared_ptr<pink::MessageSocket> socket_;
};

#endif  // PIKA_SLAVE_H_
