#include <algorithm>
#include <utility>

#include "format.h"
#include "rocksdb/db.h"

#ifdef SNAPPY
#include <snappy.h>
#endif
#ifdef ZSTD
#include <zstd.h>
#endif

#include "rocksdb/checksum.h"

namespace rocksdb {

bool BatchCursor::TakeString(const char** data, size_t* size) {
  if (end_ - next_ < 4) return ok_ = false;
  *size = GetNumber(next_);
  next_ += 4;
  if (static_cast<size_t>(end_ - next_) < *size) return ok_ = false;
  *data = next_;
  next_ += *size;
  return true;
}

bool BatchCursor::Next() {
  if (next_ == end_) return false;
  const int change = *next_++;
  switch (change) {
    case kPut:
    case kPutCompressed:
      if (!TakeString(&key_, &key_size_) || !TakeString(&value_, &value_size_)) return false;
      break;
    case kDelete:
      if (!TakeString(&key_, &key_size_)) return false;
      break;
    case kClear:
      // Only in front: what it drops must not include its own batch.
      if (next_ - begin_ != 1) return ok_ = false;
      break;
    default:
      return ok_ = false;
  }
  change_ = static_cast<Change>(change);
  return true;
}

void WriteBatch::Put(const std::string& key, const std::string& value) {
  data_.push_back(kPut);
  PutNumber(&data_, static_cast<uint32_t>(key.size()));
  data_ += key;
  PutNumber(&data_, static_cast<uint32_t>(value.size()));
  data_ += value;
}

void WriteBatch::Delete(const std::string& key) {
  data_.push_back(kDelete);
  PutNumber(&data_, static_cast<uint32_t>(key.size()));
  data_ += key;
}

void WriteBatch::Clear() { data_.assign(1, kClear); }

bool WriteBatch::Assign(const std::string& data) {
  BatchCursor cursor(data.data(), data.size());
  std::string unused;
  while (cursor.Next()) {
    if (cursor.change() == kPutCompressed &&
        !Uncompress(cursor.value(), cursor.value_size(), &unused)) {
      return false;
    }
  }
  if (!cursor.ok()) return false;
  data_ = data;
  return true;
}

namespace {

const size_t kWorthIt = 64;
const unsigned long long kLargest = 1ull << 30;  // bytes of one value

// A zstd frame begins with these bytes (RFC 8878, 3.1.1). snappy's text begins
// with its length, which is kWorthIt at least, so it is never taken for one.
const char kZstdMagic[] = {'\x28', '\xb5', '\x2f', '\xfd'};

// Packs a value; false if the codec is not there.
bool Pack(Compression compression, const char* data, size_t size, std::string* packed) {
  switch (compression) {
    case Compression::kSnappy:
#ifdef SNAPPY
      snappy::Compress(data, size, packed);
      return true;
#else
      return false;
#endif
    case Compression::kZstd: {
#ifdef ZSTD
      packed->resize(ZSTD_compressBound(size));
      const size_t length = ZSTD_compress(&(*packed)[0], packed->size(), data, size, 1);
      packed->resize(ZSTD_isError(length) ? 0 : length);
      return !ZSTD_isError(length);
#else
      return false;
#endif
    }
    case Compression::kNone:
      return false;
  }
  (void)data;
  (void)size;
  (void)packed;
  return false;
}

}  // namespace

// Rewrites the batch with its larger values compressed, where that helps.
std::string DB::Compress(const std::string& batch) const {
  if (options_.compression == Compression::kNone) return batch;
  std::string out;
  BatchCursor cursor(batch.data(), batch.size());
  size_t done = 0;  // how much of the batch is in `out`
  while (cursor.Next()) {
    const bool candidate = cursor.change() == kPut && cursor.value_size() >= kWorthIt &&
                           LooksCompressible(cursor.value(), cursor.value_size());
    std::string packed;
    if (candidate &&
        Pack(options_.compression, cursor.value(), cursor.value_size(), &packed) &&
        packed.size() < cursor.value_size()) {
      const std::string key = cursor.key();
      const size_t begin = cursor.value_offset() - 4 - key.size() - 4 - 1;
      out.append(batch, done, begin - done);
      out.push_back(kPutCompressed);
      PutNumber(&out, static_cast<uint32_t>(key.size()));
      out += key;
      PutNumber(&out, static_cast<uint32_t>(packed.size()));
      out += packed;
      done = cursor.value_offset() + cursor.value_size();
    }
  }
  out.append(batch, done, std::string::npos);
  return std::move(out);
}

bool Uncompress(const char* data, size_t size, std::string* value) {
  if (size >= sizeof kZstdMagic && std::equal(kZstdMagic, kZstdMagic + sizeof kZstdMagic, data)) {
#ifdef ZSTD
    const unsigned long long length = ZSTD_getFrameContentSize(data, size);
    if (length > kLargest) return false;  // also the two values that mean "unknown" and "damaged"
    value->resize(length);
    return ZSTD_decompress(&(*value)[0], value->size(), data, size) == length;
#else
    return false;  // written by a build that had the codec
#endif
  }
#ifdef SNAPPY
  return snappy::Uncompress(data, size, value);
#else
  (void)data;
  (void)size;
  (void)value;
  return false;  // written by a build that had the codec
#endif
}

}  // namespace rocksdb
