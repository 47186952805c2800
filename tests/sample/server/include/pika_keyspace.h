#ifndef PIKA_KEYSPACE_H_
#define PIKA_KEYSPACE_H_

#include <stdint.h>

#include <map>
#include <mutex>
#include <string>

#include "pika_coding.h"
#include "pika_storage.h"
#include "pink/thread_pool.h"

// Counts the keys of the database when asked to, in the background: with keys
// on disk, there is no cheap number that is right.
class KeyspaceScanner {
 public:
  struct Counts {
    uint64_t keys = 0;
    uint64_t expires = 0;  // of these, with a time to live
    uint64_t invalid = 0;  // their time is over, but they still take space
  };
  struct Result {
    std::map<ValueType, Counts> counts;
    int64_t started = 0;  // seconds since 1970; 0: there was no scan yet
    int64_t seconds = 0;
  };

  explicit KeyspaceScanner(const PikaStorage* storage) : storage_(storage) {}

  void Start(pink::ThreadPool* pool);
  bool scanning() const;
  Result last() const;

 private:
  void Scan();

  const PikaStorage* const storage_;
  mutable std::mutex mutex_;
  int pending_ = 0;
  Result last_;
};

#endif  // PIKA_KEYSPACE_H_
