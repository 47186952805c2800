#ifndef ROCKSDB_CHECKSUM_H_
#define ROCKSDB_CHECKSUM_H_

#include <string>

namespace rocksdb {

// A 32-bit checksum against torn and damaged records; not against an attacker.
// The value of a long input is that of its parts: Checksum(b, Checksum(a)).
uint32_t Checksum(const char* data, size_t size, uint32_t seed = 0);

inline uint32_t Checksum(const std::string& data) { return Checksum(data.data(), data.size()); }

// Whether the bytes look uneven enough for a byte-oriented compressor to be
// worth its time.
bool LooksCompressible(const char* data, size_t size);

}  // namespace rocksdb

#endif  // ROCKSDB_CHECKSUM_H_
