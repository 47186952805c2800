#include "pika_latency.h"

#include <math.h>
#include <string.h>

namespace {

// A request weighs half as much after 693 others.
const float kDecay = 0.999f;

int BucketOf(int64_t micros, int buckets) {
  const int bucket = static_cast<int>(4 * log2(static_cast<double>(micros) + 1));
  return bucket < buckets ? bucket : buckets - 1;
}

}  // namespace

LatencyRecorder::LatencyRecorder() { memset(weights_, 0, sizeof(weights_)); }

void LatencyRecorder::Record(int64_t micros, int64_t second) {
  float hit[kBuckets] = {0};
  hit[BucketOf(micros < 0 ? 0 : micros, kBuckets)] = 1;

  std::lock_guard<std::mutex> lock(mutex_);
  for (int i = 0; i < kBuckets; i++) weights_[i] = weights_[i] * kDecay + hit[i];
  total_++;
  if (second != second_) {
    in_previous_ = second == second_ + 1 ? in_second_ : 0;
    in_second_ = 0;
    second_ = second;
  }
  in_second_++;
}

int64_t LatencyRecorder::Percentile(double share) const {
  std::lock_guard<std::mutex> lock(mutex_);
  double sum = 0;
  for (int i = 0; i < kBuckets; i++) sum += weights_[i];
  double below = 0;
  for (int i = 0; i < kBuckets; i++) {
    below += weights_[i];
    if (sum > 0 && below >= share * sum) return static_cast<int64_t>(exp2((i + 1) / 4.0)) - 1;
  }
  return 0;
}

uint64_t LatencyRecorder::total() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return total_;
}

uint64_t LatencyRecorder::LastSecond(int64_t second) const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (second == second_) return in_previous_;
  return second == second_ + 1 ? in_second_ : 0;
}
