// The bytes of the log. A record is
//   checksum of the batch (4)  size of the batch (4)  batch
// and a batch is a row of changes, each
//   change (1)  size of key (4)  key  [size of value (4)  value]
// with numbers in little endian, which is the byte order of every CPU that
// this library is compiled for.
#ifndef ROCKSDB_SRC_FORMAT_H_
#define ROCKSDB_SRC_FORMAT_H_

#include <stdint.h>
#include <string.h>

#include <string>

namespace rocksdb {

enum Change {
  kPut = 1,
  kPutCompressed = 2,
  kDelete = 3,
  kClear = 4,
};

const size_t kRecordHeader = 8;
const uint32_t kMaxBatch = 1u << 30;

inline void PutNumber(std::string* out, uint32_t number) {
  out->append(reinterpret_cast<const char*>(&number), sizeof(number));
}

inline uint32_t GetNumber(const char* data) {
  uint32_t number;
  memcpy(&number, data, sizeof(number));
  return number;
}

inline uint64_t Byte(char c) { return static_cast<unsigned char>(c); }

// A number of which `size` bytes are there, eight at most; the others count as zero.
inline uint64_t GetPart(const char* data, size_t size) {
  uint64_t number = 0;
  if (size > 0) number |= Byte(data[0]);
  if (size > 1) number |= Byte(data[1]) << 8;
  if (size > 2) number |= Byte(data[2]) << 16;
  if (size > 3) number |= Byte(data[3]) << 24;
  if (size > 4) number |= Byte(data[4]) << 32;
  if (size > 5) number |= Byte(data[5]) << 40;
  if (size > 6) number |= Byte(data[6]) << 48;
  if (size > 7) number |= Byte(data[7]) << 56;
  return number;
}

// Walks over the changes of a batch, which may come from a damaged file or
// from the network.
class BatchCursor {
 public:
  BatchCursor(const char* data, size_t size) : begin_(data), next_(data), end_(data + size) {}
  BatchCursor(const BatchCursor& other)
      : begin_(other.begin_), next_(other.next_), end_(other.end_) {}

  // False at the end, and when the rest makes no sense: see ok().
  bool Next();
  bool ok() const { return ok_; }

  Change change() const { return change_; }
  std::string key() const { return std::string(key_, key_size_); }
  const char* value() const { return value_; }
  size_t value_size() const { return value_size_; }
  size_t value_offset() const { return static_cast<size_t>(value_ - begin_); }

 private:
  bool TakeString(const char** data, size_t* size);

  const char* begin_;
  const char* next_;
  const char* end_;
  bool ok_ = true;
  Change change_ = kClear;
  const char* key_ = nullptr;
  size_t key_size_ = 0;
  const char* value_ = nullptr;
  size_t value_size_ = 0;
};

// Uncompressed value of a kPutCompressed change; false if damaged.
bool Uncompress(const char* data, size_t size, std::string* value);

}  // namespace rocksdb

#endif  // ROCKSDB_SRC_FORMAT_H_
