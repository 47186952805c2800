#include "rocksdb/segment_name.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>

namespace rocksdb {

namespace {

bool IsDigit(unsigned char c) { return isdigit(c) != 0; }

}  // namespace

std::string SegmentName(uint64_t number) {
  char name[32];
  snprintf(name, sizeof(name), "%06llu.log", static_cast<unsigned long long>(number));
  return name;
}

uint64_t SegmentNumber(const std::string& name) {
  const std::string digits = name.substr(0, name.find('.'));
  if (!std::all_of(digits.begin(), digits.end(), IsDigit)) return 0;
  const uint64_t number = strtoull(digits.c_str(), nullptr, 10);
  const bool fits = number <= std::numeric_limits<uint32_t>::max();
  return fits && SegmentName(number) == name ? number : 0;
}

}  // namespace rocksdb
