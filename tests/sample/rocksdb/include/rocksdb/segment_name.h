#ifndef ROCKSDB_SEGMENT_NAME_H_
#define ROCKSDB_SEGMENT_NAME_H_

#include <stdint.h>

#include <string>

namespace rocksdb {

// "000012.log"
std::string SegmentName(uint64_t number);
// 0 if the name is not that of a segment.
uint64_t SegmentNumber(const std::string& name);

}  // namespace rocksdb

#endif  // ROCKSDB_SEGMENT_NAME_H_
