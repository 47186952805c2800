#include "rocksdb/checksum.h"

#include <string.h>

namespace rocksdb {

namespace {

// A block is always mixed whole, a short one padded with zeros: a loop with a
// fixed count needs no scalar remainder, so even the smallest record runs
// through the compiler's vector code.
const size_t kBlockWords = 64;
const size_t kBlockBytes = kBlockWords * sizeof(uint32_t);

uint32_t MixBlock(const uint32_t* words, uint32_t state) {
  uint32_t sum = 0;
  uint32_t parity = 0;
  for (uint32_t i = 0; i < kBlockWords; i++) {
    // An odd weight of its own per word: swapped words change the sum.
    uint32_t mixed = words[i] * ((i * 0x9E3779B1u) | 1u);
    mixed = (mixed << 15) | (mixed >> 17);
    sum += mixed;
    parity ^= mixed + words[i];
  }
  state = ((state << 13) | (state >> 19)) ^ sum;
  return state * 0x85EBCA6Bu + parity;
}

}  // namespace

uint32_t Checksum(const char* data, size_t size, uint32_t seed) {
  uint32_t words[kBlockWords];
  uint32_t state = seed ^ static_cast<uint32_t>(size);
  while (size >= kBlockBytes) {
    memcpy(words, data, kBlockBytes);
    state = MixBlock(words, state);
    data += kBlockBytes;
    size -= kBlockBytes;
  }
  if (size > 0) {
    memset(words, 0, sizeof(words));
    memcpy(words, data, size);
    state = MixBlock(words, state);
  }
  return state ^ (state >> 16);
}

bool LooksCompressible(const char* data, size_t size) {
  // A sample is enough to tell text from random bytes.
  const size_t kSample = 4096;
  if (size > kSample) size = kSample;

  uint32_t counts[256];
  memset(counts, 0, sizeof(counts));
  for (size_t i = 0; i < size; i++) counts[static_cast<unsigned char>(data[i])]++;

  // The sum of squares is n*n/256 for evenly spread bytes plus about n by
  // chance, and the more above that, the fewer values dominate.
  uint32_t squares = 0;
  for (size_t i = 0; i < 256; i++) squares += counts[i] * counts[i];
  return squares > size * size / 64 + 2 * size;
}

}  // namespace rocksdb
