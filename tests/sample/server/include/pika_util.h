#ifndef PIKA_UTIL_H_
#define PIKA_UTIL_H_

#include <stdint.h>
#include <time.h>

#include <string>
#include <vector>

// The whole text must be the number.
bool ParseInt(const std::string& text, int64_t* number);
// Also inf, +inf and -inf; not nan.
bool ParseScore(const std::string& text, double* score);
// The shortest text that reads back as the same number.
std::string FormatScore(double score);

std::string Lower(std::string text);
std::string Upper(std::string text);
std::vector<std::string> Split(const std::string& text, char separator);
std::string Trim(const std::string& text);
// * ? [a-z] [^a] and \ as in the redis KEYS command.
bool GlobMatch(const std::string& pattern, const std::string& text);

// Milliseconds since 1970.
int64_t NowMillis();
// Of the local time zone, as strftime formats it.
std::string FormatTime(time_t when, const char* format);

// Creates the folder and the ones above it.
bool MakeFolders(const std::string& path);
// Removes a file, or a folder with all that is in it. True if nothing is left.
bool RemoveAll(const std::string& path);
// A second name for the file; a copy if the other folder is elsewhere.
bool LinkOrCopy(const std::string& from, const std::string& to);
// Bytes of the files in a folder and in those below it.
uint64_t FolderBytes(const std::string& path);
std::vector<std::string> ListFolder(const std::string& path);

#endif  // PIKA_UTIL_H_
