#include "pika_server.h"

#include <glog/logging.h>
#include <time.h>

#include "pika_client.h"
#include "pika_util.h"

namespace {

pink::RedisServer::Options ClientOptions(const PikaConf& conf) {
  pink::RedisServer::Options options;
  options.port = static_cast<int>(conf.GetInt("port"));
  options.pollers = static_cast<int>(conf.GetInt("thread-num"));
  options.workers = static_cast<int>(conf.GetInt("thread-pool-size"));
  return options;
}

rocksdb::Compression CompressionOf(const std::string& name) {
  if (name == "snappy") return rocksdb::Compression::kSnappy;
  if (name == "zstd") return rocksdb::Compression::kZstd;
  return rocksdb::Compression::kNone;
}

PikaStorage::Options StorageOptions(const PikaConf& conf) {
  PikaStorage::Options options;
  options.folder = conf.GetFolder("db-path");
  options.compression = CompressionOf(conf.Get("compression"));
  options.write_buffer_bytes = conf.GetBytes("write-buffer-size");
  options.open_tables = conf.GetInt("max-cache-files");
  options.tables_are_cached = conf.GetBool("cache-index-and-filter-blocks");
  return options;
}

}  // namespace

PikaServer::PikaServer(PikaConf* conf)
    : conf_(conf),
      keyspace_(&storage_),
      bgsave_(conf, &storage_),
      master_(conf, &storage_),
      slave_(conf, &storage_, &master_),
      clients_(ClientOptions(*conf), this),
      jobs_(1),
      started_(time(nullptr)),
      accepted_(0),
      slave_read_only_(true) {}

bool PikaServer::Start(std::string* error) {
  const rocksdb::Status s = storage_.Open(StorageOptions(*conf_));
  if (!s.ok()) {
    *error = "open the database: " + s.ToString();
    return false;
  }
  if (!storage_.binlog()->Open(conf_->GetFolder("log-path") + "log_db0",
                               conf_->GetBytes("binlog-file-size"), error)) {
    *error = "open the binlog: " + *error;
    return false;
  }
  ApplyConf();
  jobs_.Schedule([this] { bgsave_.RemoveOldDumps(); });
  if (!master_.Start(error) || !clients_.Start(error)) return false;

  const std::string master = conf_->Get("slaveof");
  if (!master.empty()) {
    int64_t port = 0;
    const size_t colon = master.find(':');
    if (colon == std::string::npos || !ParseInt(master.substr(colon + 1), &port) || port < 1 ||
        port > 65535 - 2000) {
      *error = "slaveof must be ip:port, not " + master;
      return false;
    }
    slave_.Follow(master.substr(0, colon), static_cast<int>(port));
  }
  return true;
}

void PikaServer::Stop() {
  // First those who bring work, then those who do it.
  clients_.Stop();
  slave_.Stop();
  master_.Stop();
  jobs_.Stop();
  LOG(INFO) << "requests took " << latency_.Percentile(0.5) << " us at the median, "
            << latency_.Percentile(0.99) << " us at the 99th percentile";
}

std::shared_ptr<pink::RedisConn> PikaServer::NewConn(int fd, const std::string& ip, int port,
                                                     std::string* refusal) {
  int64_t allowed = conf_->GetInt("maxclients");
  if (ip == "127.0.0.1") allowed += conf_->GetInt("root-connection-num");
  if (static_cast<int64_t>(clients_.connections()) >= allowed) {
    *refusal = "-ERR max number of clients reached\r\n";
    return nullptr;
  }
  accepted_++;
  return std::make_shared<PikaClientConn>(fd, ip, port, this);
}

void PikaServer::ApplyConf() {
  clients_.set_idle_timeout(conf_->GetInt("timeout"));
  clients_.set_max_request_bytes(static_cast<size_t>(conf_->GetInt("max-conn-rbuf-size")));
  storage_.binlog()->set_enabled(conf_->GetBool("write-binlog"));
  storage_.binlog()->set_limits(conf_->GetInt("expire-logs-nums"),
                                conf_->GetInt("expire-logs-days"));
  slave_read_only_ = conf_->GetBool("slave-read-only");
}

void PikaServer::CountCommand(const std::string& name) {
  std::lock_guard<std::mutex> lock(counts_mutex_);
  counts_[name]++;
}
