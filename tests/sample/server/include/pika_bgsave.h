#ifndef PIKA_BGSAVE_H_
#define PIKA_BGSAVE_H_

#include <mutex>
#include <string>

#include "pika_conf.h"
#include "pika_storage.h"
#include "pink/thread_pool.h"

// Snapshots: hard links of the log's closed segments in
// dump-path/<dump-prefix>YYYYMMDD/db0. A later one of the same day takes the
// place of an earlier one.
class Bgsave {
 public:
  Bgsave(const PikaConf* conf, PikaStorage* storage) : conf_(conf), storage_(storage) {}

  void Start(pink::ThreadPool* pool);
  bool running() const;
  // Removes those whose days are over, as after each snapshot.
  void RemoveOldDumps();

 private:
  std::string Save();
  std::string LinkSegments(const std::string& folder, rocksdb::LogPosition* position);

  const PikaConf* const conf_;
  PikaStorage* const storage_;
  mutable std::mutex mutex_;
  int pending_ = 0;
};

#endif  // PIKA_BGSAVE_H_
