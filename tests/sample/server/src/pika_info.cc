// The sections of INFO, under the names and keys that clients know; the spelling
// is the product's.
#include <stdio.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "pika_server.h"
#include "pika_util.h"
#include "pika_version.h"

namespace {

const char* YesNo(bool flag) { return flag ? "Yes" : "No"; }

std::string Megabytes(uint64_t bytes) { return std::to_string(bytes >> 20) + "M"; }

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
}

}  // namespace

std::string PikaServer::Info(const std::string& section) {
  struct Section {
    const char* name;
    std::string (PikaServer::*text)();
    bool in_short_form;
  };
  static const Section kSections[] = {
      {"server", &PikaServer::InfoServer, true},
      {"data", &PikaServer::InfoData, true},
      {"clients", &PikaServer::InfoClients, true},
      {"stats", &PikaServer::InfoStats, true},
      {"command_exec_count", &PikaServer::InfoCommandExecCount, false},
      {"cpu", &PikaServer::InfoCpu, true},
      {"replication", &PikaServer::InfoReplication, true},
      {"keyspace", &PikaServer::InfoKeyspace, true},
  };
  std::string text;
  for (const Section& known : kSections) {
    if (section == known.name || section == "all" || (section.empty() && known.in_short_form)) {
      if (!text.empty()) text += "\r\n";
      text += (this->*known.text)();
    }
  }
  return text;
}

std::string PikaServer::InfoServer() {
  utsname system;
  uname(&system);
  const int64_t uptime = time(nullptr) - started_;
  std::ostringstream out;
  out << "# Server\r\n"
      << "pika_version:" << kPikaVersion << "\r\n"
      << "pika_git_sha:" << kPikaGitSha << "\r\n"
      << "pika_build_compile_date:" << kPikaCompileDate << "\r\n"
      << "os:" << system.sysname << " " << system.release << " " << system.machine << "\r\n"
      << "arch_bits:" << 8 * sizeof(void*) << "\r\n"
      << "process_id:" << getpid() << "\r\n"
      << "tcp_port:" << conf_->Get("port") << "\r\n"
      << "thread_num:" << conf_->Get("thread-num") << "\r\n"
      << "sync_thread_num:" << conf_->Get("sync-thread-num") << "\r\n"
      << "uptime_in_seconds:" << uptime << "\r\n"
      << "uptime_in_days:" << uptime / 86400 << "\r\n"
      << "config_file:" << conf_->path() << "\r\n"
      << "server_id:" << conf_->Get("server-id") << "\r\n";
  return out.str();
}

std::string PikaServer::InfoData() {
  uint64_t disk = 0;
  PikaStorage::Usage usage;
  std::string fatal;
  {
    PikaStorage::ReadLock lock(&storage_);
    disk = storage_.db()->DiskBytes();
    usage = storage_.usage();
    fatal = storage_.fatal();
  }
  const uint64_t logs = FolderBytes(conf_->GetFolder("log-path"));
  // Of the storage library; the process holds more.
  const uint64_t memory = usage.memtable + usage.table_reader;
  std::ostringstream out;
  out << "# Data\r\n"
      << "db_size:" << disk << "\r\n"
      << "db_size_human:" << Megabytes(disk) << "\r\n"
      << "log_size:" << logs << "\r\n"
      << "log_size_human:" << Megabytes(logs) << "\r\n"
      << "compression:" << conf_->Get("compression") << "\r\n"
      << "used_memory:" << memory << "\r\n"
      << "used_memory_human:" << Megabytes(memory) << "\r\n"
      << "db_memtable_usage:" << usage.memtable << "\r\n"
      << "db_tablereader_usage:" << usage.table_reader << "\r\n"
      << "db_fatal:" << !fatal.empty() << "\r\n"
      << "db_fatal_msg:" << (fatal.empty() ? "NULL" : fatal) << "\r\n";
  return out.str();
}

std::string PikaServer::InfoClients() {
  return "# Clients\r\nconnected_clients:" + std::to_string(clients_.connections()) + "\r\n";
}

std::string PikaServer::InfoStats() {
  std::ostringstream out;
  out << "# Stats\r\n"
      << "total_connections_received:" << accepted_ << "\r\n"
      << "instantaneous_ops_per_sec:" << latency_.LastSecond(pink::MonotonicSeconds()) << "\r\n"
      << "total_commands_processed:" << latency_.total() << "\r\n"
      << "is_bgsaving:" << YesNo(bgsave_.running()) << "\r\n"
      << "is_scaning_keyspace:" << YesNo(keyspace_.scanning()) << "\r\n"
      << "is_compact:No\r\n"
      << "compact_cron:" << conf_->Get("compact-cron") << "\r\n"
      << "compact_interval:" << conf_->Get("compact-interval") << "\r\n";
  return out.str();
}

std::string PikaServer::InfoCommandExecCount() {
  std::ostringstream out;
  out << "# Command_Exec_Count\r\n";
  std::lock_guard<std::mutex> lock(counts_mutex_);
  for (const auto& count : counts_) out << Upper(count.first) << ":" << count.second << "\r\n";
  return out.str();
}

std::string PikaServer::InfoCpu() {
  rusage self, children;
  getrusage(RUSAGE_SELF, &self);
  getrusage(RUSAGE_CHILDREN, &children);
  std::ostringstream out;
  out.precision(2);
  out << std::fixed << "# CPU\r\n"
      << "used_cpu_sys:" << Seconds(self.ru_stime) << "\r\n"
      << "used_cpu_user:" << Seconds(self.ru_utime) << "\r\n"
      << "used_cpu_sys_children:" << Seconds(children.ru_stime) << "\r\n"
      << "used_cpu_user_children:" << Seconds(children.ru_utime) << "\r\n";
  return out.str();
}

std::string PikaServer::InfoReplication() {
  std::ostringstream out;
  out << "# Replication(" << (slave_.following() ? "SLAVE" : "MASTER") << ")\r\n";
  if (slave_.following()) {
    const PikaSlave::Info info = slave_.info();
    out << "role:slave\r\n"
        << "master_host:" << info.ip << "\r\n"
        << "master_port:" << info.port << "\r\n"
        << "master_link_status:" << (info.state == PikaSlave::kConnected ? "up" : "down")
        << "\r\n"
        << "slave_priority:" << conf_->Get("slave-priority") << "\r\n"
        << "slave_read_only:" << (slave_read_only_ ? 1 : 0) << "\r\n"
        << "db_repl_state:(db0:" << PikaSlave::StateName(info.state) << ")\r\n";
  } else {
    out << "role:master\r\n";
  }
  rocksdb::LogPosition end;
  Binlog::Position binlog;
  std::string purge;
  {
    PikaStorage::ReadLock lock(&storage_);
    end = storage_.db()->tail()->end();
    binlog = storage_.binlog()->end();
    purge = storage_.binlog()->SafetyPurge();
  }
  const auto replicas = master_.replicas();
  out << "connected_slaves:" << replicas.size() << "\r\n";
  for (size_t i = 0; i < replicas.size(); i++) {
    const PikaMaster::ReplicaInfo& replica = replicas[i];
    out << "slave" << i << ":ip=" << replica.ip << ",port=" << replica.port
        << ",conn_fd=" << replica.fd << ",lag=(db0:";
    // Bytes; over several segments only a lower limit is known.
    const bool same = replica.acked.segment == end.segment;
    out << (same ? end.offset - replica.acked.offset : end.offset) << ")\r\n";
  }
  out << "db0 binlog_offset=" << binlog.file << " " << binlog.offset << ",safety_purge=" << purge
      << "\r\n";
  return out.str();
}

std::string PikaServer::InfoKeyspace() {
  const KeyspaceScanner::Result scan = keyspace_.last();
  std::ostringstream out;
  out << "# Keyspace\r\n"
      << "# Time:" << FormatTime(scan.started, "%Y-%m-%d %H:%M:%S") << "\r\n"
      << "# Duration: " << scan.seconds << "s\r\n";
  static const std::pair<ValueType, const char*> kTypes[] = {
      {kString, "Strings"}, {kHash, "Hashes"}, {kList, "Lists"}, {kZset, "Zsets"}, {kSet, "Sets"}};
  for (const auto& type : kTypes) {
    const auto found = scan.counts.find(type.first);
    const KeyspaceScanner::Counts counts =
        found == scan.counts.end() ? KeyspaceScanner::Counts() : found->second;
    out << "db0 " << type.second << "_keys=" << counts.keys << ", expires=" << counts.expires
        << ", invaild_keys=" << counts.invalid << "\r\n";
  }
  return out.str();
}
