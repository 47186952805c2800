#ifndef PIKA_MASTER_H_
#define PIKA_MASTER_H_

#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "pika_conf.h"
#include "pika_storage.h"
#include "pink/socket.h"

// What this server does for its replicas: files on port+1000, the log from
// there on, record by record, on port+2000.
//
// The service on port+1000 stands for the product's rsync daemon: its process is
// in db-sync-path/rsync/slash_rsync.pid, and while there is such a file, it is
// taken to live and not started.
class PikaMaster {
 public:
  PikaMaster(const PikaConf* conf, PikaStorage* storage);

  bool Start(std::string* error);
  void Stop();
  // Starts the service on port+1000, unless it is there. False: it is not, as
  // another one seems to live.
  bool EnsureFiles(std::string* error);

  // Ends all connections; replicas come again and find out what to do. For when
  // the database was replaced and its log is another one.
  void DropReplicas();

  struct ReplicaInfo {
    std::string ip;
    int port;
    int fd;
    rocksdb::LogPosition acked;
  };
  std::vector<ReplicaInfo> replicas() const;

 private:
  struct Replica {
    ReplicaInfo info;
    std::shared_ptr<pink::MessageSocket> socket;
    std::shared_ptr<rocksdb::LogReader> reader;
  };
  typedef std::list<Replica>::iterator Entry;

  void ServeFiles(const std::shared_ptr<pink::MessageSocket>& socket);
  void ServeLog(const std::shared_ptr<pink::MessageSocket>& socket);
  // Why the replica cannot be served; empty if it can.
  std::string Refusal(const std::string& auth) const;

  const PikaConf* const conf_;
  PikaStorage* const storage_;
  std::string pid_file_;
  std::mutex files_mutex_;
  bool serves_files_ = false;
  pink::MessageServer files_;
  pink::MessageServer log_;
  mutable std::mutex mutex_;
  std::list<Replica> replicas_;
};

#endif  // PIKA_MASTER_H_
