#include "pika_coding.h"

namespace {

const uint64_t kSignBit = 1ULL << 63;

std::string BigEndian(uint64_t number) {
  std::string out(8, '\0');
  for (int i = 7; i >= 0; i--) {
    out[static_cast<size_t>(i)] = static_cast<char>(number & 0xFF);
    number >>= 8;
  }
  return out;
}

void PutInt(std::string* out, int64_t number) {
  out->append(reinterpret_cast<const char*>(&number), sizeof(number));
}

int64_t GetInt(const std::string& data, size_t offset) {
  int64_t number;
  memcpy(&number, data.data() + offset, sizeof(number));
  return number;
}

}  // namespace

std::string EncodeMeta(const Meta& meta) {
  std::string out(1, meta.type);
  PutInt(&out, meta.expire_ms);
  if (meta.type == kString) {
    out += meta.value;
  } else {
    PutInt(&out, meta.count);
    PutInt(&out, meta.head);
  }
  return out;
}

bool DecodeMeta(const std::string& data, Meta* meta) {
  if (data.size() < 9) return false;
  meta->type = static_cast<ValueType>(data[0]);
  meta->expire_ms = GetInt(data, 1);
  if (meta->type == kString) {
    meta->value = data.substr(9);
    return true;
  }
  if (data.size() != 25) return false;
  meta->count = GetInt(data, 9);
  meta->head = GetInt(data, 17);
  return true;
}

std::string EncodeIndex(int64_t index) {
  return BigEndian(static_cast<uint64_t>(index) ^ kSignBit);
}

// The bits of a double are a sign and a magnitude. With the sign inverted, the
// positive numbers follow the negative ones.
std::string EncodeScore(double score) {
  if (score == 0) score = 0;  // -0 is the same score
  uint64_t bits;
  memcpy(&bits, &score, sizeof(bits));
  return BigEndian(bits ^ kSignBit);
}

std::string PartPrefix(char part, const std::string& key) {
  std::string out(1, part);
  const uint32_t size = static_cast<uint32_t>(key.size());
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(size >> shift));
  return out + key;
}
