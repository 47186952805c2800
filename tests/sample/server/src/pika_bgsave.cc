#include "pika_bgsave.h"

#include <glog/logging.h>
#include <stdio.h>
#include <time.h>

#include <fstream>

#include "pika_util.h"

void Bgsave::Start(pink::ThreadPool* pool) {
  std::lock_guard<std::mutex> lock(mutex_);
  pending_++;
  pool->Schedule([this] {
    const std::string problem = Save();
    if (problem.empty()) {
      RemoveOldDumps();
    } else {
      LOG(ERROR) << "bgsave: " << problem;
    }
    std::lock_guard<std::mutex> done_lock(mutex_);
    pending_--;
  });
}

bool Bgsave::running() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return pending_ > 0;
}

// Under the lock, but links take no time worth mentioning: FLUSHALL must not
// remove a segment between two of them.
std::string Bgsave::LinkSegments(const std::string& folder, rocksdb::LogPosition* position) {
  PikaStorage::WriteLock lock(storage_);
  const rocksdb::Status s = storage_->db()->Rotate(position);
  if (!s.ok()) return s.ToString();
  for (const std::string& name : storage_->db()->ClosedSegments()) {
    if (!LinkOrCopy(storage_->db()->path() + "/" + name, folder + "/" + name)) {
      return "cannot link " + name;
    }
  }
  return std::string();
}

std::string Bgsave::Save() {
  const time_t begin = time(nullptr);
  const std::string dump = conf_->GetFolder("dump-path") + conf_->Get("dump-prefix") +
                           FormatTime(begin, "%Y%m%d");
  // The one of the same day is gone before the new one is whole: a dump without
  // the file `info` is half of one.
  if (!RemoveAll(dump) || !MakeFolders(dump + "/db0")) return "cannot make " + dump;
  rocksdb::LogPosition position;
  const std::string problem = LinkSegments(dump + "/db0", &position);
  if (!problem.empty()) return problem;

  std::ofstream info(dump + "/db0/info");
  info << time(nullptr) - begin << "s\n"
       << "127.0.0.1\n"
       << conf_->GetInt("port") << "\n"
       << position.segment << "\n"
       << position.offset << "\n";
  info.close();
  if (!info) return "cannot write the info file";
  LOG(INFO) << "bgsave: " << dump;
  return std::string();
}

void Bgsave::RemoveOldDumps() {
  const int64_t days = conf_->GetInt("dump-expire");
  if (days <= 0) return;
  const std::string folder = conf_->GetFolder("dump-path");
  const std::string prefix = conf_->Get("dump-prefix");
  // Dates of this form are in order as texts, too.
  const std::string oldest = FormatTime(time(nullptr) - days * 86400, "%Y%m%d");
  for (const std::string& name : ListFolder(folder)) {
    if (name.compare(0, prefix.size(), prefix) != 0) continue;
    const std::string date = name.substr(prefix.size());
    if (date.size() != 8 || date.find_first_not_of("0123456789") != std::string::npos) continue;
    if (date < oldest && RemoveAll(folder + name)) LOG(INFO) << "removed the old dump " << name;
  }
}
