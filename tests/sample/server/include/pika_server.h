#ifndef PIKA_SERVER_H_
#define PIKA_SERVER_H_

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "pika_bgsave.h"
#include "pika_conf.h"
#include "pika_keyspace.h"
#include "pika_latency.h"
#include "pika_master.h"
#include "pika_slave.h"
#include "pika_storage.h"
#include "pink/redis_server.h"
#include "pink/thread_pool.h"

// Owns the parts of the server and knows in which order they start and stop.
class PikaServer : public pink::ConnFactory {
 public:
  explicit PikaServer(PikaConf* conf);

  bool Start(std::string* error);
  void Stop();

  std::shared_ptr<pink::RedisConn> NewConn(int fd, const std::string& ip, int port,
                                           std::string* refusal) override;

  PikaConf* conf() const { return conf_; }
  PikaStorage* storage() { return &storage_; }
  LatencyRecorder* latency() { return &latency_; }
  PikaSlave* slave() { return &slave_; }
  pink::RedisServer* clients() { return &clients_; }

  void StartKeyspaceScan() { keyspace_.Start(&jobs_); }
  KeyspaceScanner::Result last_scan() const { return keyspace_.last(); }
  void StartBgsave() { bgsave_.Start(&jobs_); }

  // Takes over what CONFIG SET changed.
  void ApplyConf();
  void CountCommand(const std::string& name);
  bool read_only() const { return slave_read_only_ && slave_.following(); }

  // The text of one section, or of those that INFO alone shows.
  std::string Info(const std::string& section);

 private:
  std::string InfoServer();
  std::string InfoClients();
  std::string InfoStats();
  std::string InfoCommandExecCount();
  std::string InfoCpu();
  std::string InfoReplication();
  std::string InfoKeyspace();
  std::string InfoData();

  PikaConf* const conf_;
  PikaStorage storage_;
  LatencyRecorder latency_;
  KeyspaceScanner keyspace_;
  Bgsave bgsave_;
  PikaMaster master_;
  PikaSlave slave_;
  pink::RedisServer clients_;
  // Snapshots and scans, one after the other.
  pink::ThreadPool jobs_;

  const int64_t started_;
  std::atomic<uint64_t> accepted_;
  std::atomic<bool> slave_read_only_;
  std::mutex counts_mutex_;
  std::map<std::string, uint64_t> counts_;
};

#endif  // PIKA_SERVER_H_
