#include "pika_keyspace.h"

#include <glog/logging.h>
#include <time.h>

#include "pika_util.h"

namespace {

// Writers wait for at most this many keys.
const int kKeysPerLock = 1000;

}  // namespace

void KeyspaceScanner::Start(pink::ThreadPool* pool) {
  std::lock_guard<std::mutex> lock(mutex_);
  pending_++;
  pool->Schedule([this] {
    try {
      Scan();
    } catch (const StorageError& error) {
      LOG(ERROR) << "keyspace scan: " << error.what();
    }
  });
}

bool KeyspaceScanner::scanning() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return pending_ > 0;
}

KeyspaceScanner::Result KeyspaceScanner::last() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return last_;
}

void KeyspaceScanner::Scan() {
  Result result;
  result.started = time(nullptr);
  std::string start;
  bool more = true;
  while (more) {
    more = false;
    int left = kKeysPerLock;
    PikaStorage::ReadLock lock(storage_);
    storage_->ScanKeys(start, [&](const std::string& key) {
      if (left-- == 0) {
        start = key;
        more = true;
        return false;
      }
      Meta meta;
      if (!storage_->Load(key, &meta)) return true;
      Counts& counts = result.counts[meta.type];
      if (PikaStorage::IsExpired(meta)) {
        counts.invalid++;
      } else {
        counts.keys++;
        counts.expires += meta.expire_ms != 0;
      }
      return true;
    });
  }
  result.seconds = time(nullptr) - result.started;

  std::lock_guard<std::mutex> lock(mutex_);
  last_ = result;
}
