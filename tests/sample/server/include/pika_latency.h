#ifndef PIKA_LATENCY_H_
#define PIKA_LATENCY_H_

#include <stdint.h>

#include <mutex>

// How long requests take, over about the last thousand of them, and how many
// came in the last second.
class LatencyRecorder {
 public:
  LatencyRecorder();

  // After each request. Microseconds; `second` on the monotonic clock.
  void Record(int64_t micros, int64_t second);

  // The time within which that share (0 to 1) of requests was answered.
  int64_t Percentile(double share) const;
  uint64_t total() const;
  uint64_t LastSecond(int64_t second) const;

 private:
  static const int kBuckets = 64;

  mutable std::mutex mutex_;
  // Four buckets for each doubling of the time; recent requests weigh more.
  float weights_[kBuckets];
  uint64_t total_ = 0;
  int64_t second_ = 0;
  uint64_t in_second_ = 0;
  uint64_t in_previous_ = 0;
};

#endif  // PIKA_LATENCY_H_
