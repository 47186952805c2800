// How values are laid out in the keys and values of the storage library, which
// orders keys byte by byte.
//
//   r                              how far this server has followed a master
//   m key                          type, expiry and, for strings, the value
//   h|s|z length-of-key key name   field, member
//   l length-of-key key index      list element
//   o length-of-key key score name sorted set in order of scores
#ifndef PIKA_CODING_H_
#define PIKA_CODING_H_

#include <stdint.h>
#include <string.h>

#include <string>

enum ValueType : char {
  kString = 's',
  kHash = 'h',
  kList = 'l',
  kSet = 'S',
  kZset = 'z',
};

struct Meta {
  ValueType type = kString;
  int64_t expire_ms = 0;  // since 1970; 0: never
  std::string value;      // strings
  int64_t count = 0;      // the other types
  int64_t head = 0;       // lists: index of the first element
};

std::string EncodeMeta(const Meta& meta);
bool DecodeMeta(const std::string& data, Meta* meta);

// Eight bytes whose order is the order of the numbers.
std::string EncodeIndex(int64_t index);
std::string EncodeScore(double score);

inline std::string RawNumber(double number) {
  return std::string(reinterpret_cast<const char*>(&number), sizeof(number));
}

inline double RawNumber(const std::string& data) {
  double number = 0;
  if (data.size() == sizeof(number)) memcpy(&number, data.data(), sizeof(number));
  return number;
}

const char kReplicationKey[] = "r";
inline std::string MetaKey(const std::string& key) { return "m" + key; }
// What all parts of a collection begin with; `part` is one of h s z l o.
std::string PartPrefix(char part, const std::string& key);

#endif  // PIKA_CODING_H_
