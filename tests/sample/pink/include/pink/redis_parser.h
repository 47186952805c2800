#ifndef PINK_REDIS_PARSER_H_
#define PINK_REDIS_PARSER_H_

#include <string>
#include <vector>

namespace pink {

typedef std::vector<std::string> RedisCmdArgs;

enum class ParseResult : uint8_t { kDone, kIncomplete, kError };

// Takes the first request, an array of bulk strings or an inline command, from
// the `size` bytes at `data`. kDone: *used bytes belong to it (*args is empty
// for a blank line). kError: *error is the text of the reply.
ParseResult ParseRequest(const char* data, size_t size, size_t* used, RedisCmdArgs* args,
                         std::string* error);

}  // namespace pink

#endif  // PINK_REDIS_PARSER_H_
