#include "pika_util.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>

bool ParseInt(const std::string& text, int64_t* number) {
  if (text.empty() || isspace(static_cast<unsigned char>(text[0]))) return false;
  char* end = nullptr;
  errno = 0;
  *number = strtoll(text.c_str(), &end, 10);
  return errno == 0 && end == text.c_str() + text.size();
}

bool ParseScore(const std::string& text, double* score) {
  if (text.empty() || isspace(static_cast<unsigned char>(text[0]))) return false;
  char* end = nullptr;
  *score = strtod(text.c_str(), &end);
  return end == text.c_str() + text.size() && !std::isnan(*score);
}

std::string FormatScore(double score) {
  if (std::isinf(score)) return score > 0 ? "inf" : "-inf";
  char text[64];
  for (int digits = 15; digits <= 17; digits++) {
    snprintf(text, sizeof(text), "%.*g", digits, score);
    if (strtod(text, nullptr) == score) break;
  }
  return text;
}

std::string Lower(std::string text) {
  for (char& c : text) c = static_cast<char>(tolower(static_cast<unsigned char>(c)));
  return text;
}

std::string Upper(std::string text) {
  for (char& c : text) c = static_cast<char>(toupper(static_cast<unsigned char>(c)));
  return text;
}

std::string Trim(const std::string& text) {
  const char* kBlank = " \t\r\n";
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string::npos) return std::string();
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    const std::string part = Trim(text.substr(begin, end - begin));
    if (!part.empty()) parts.push_back(part);
    begin = end + 1;
  }
  return parts;
}

namespace {

// Matches one [...] whose '[' is at p; moves p behind the ']'.
bool MatchClass(const std::string& pattern, size_t* p, char c) {
  size_t i = *p + 1;
  const bool negated = i < pattern.size() && pattern[i] == '^';
  if (negated) i++;
  bool found = false;
  while (i < pattern.size() && pattern[i] != ']') {
    if (pattern[i] == '\\' && i + 1 < pattern.size()) i++;
    char low = pattern[i], high = low;
    if (i + 2 < pattern.size() && pattern[i + 1] == '-' && pattern[i + 2] != ']') {
      high = pattern[i + 2];
      i += 2;
    }
    if (low > high) std::swap(low, high);
    found = found || (low <= c && c <= high);
    i++;
  }
  *p = std::min(i + 1, pattern.size());
  return found != negated;
}

}  // namespace

// A mismatch goes back to the last star only, so the time is bounded by the
// product of the lengths.
bool GlobMatch(const std::string& pattern, const std::string& text) {
  size_t p = 0, t = 0;
  size_t star = std::string::npos, star_text = 0;
  while (t < text.size()) {
    size_t next = p;
    bool match = false;
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_text = t;
      continue;
    }
    if (p < pattern.size()) {
      if (pattern[p] == '[') {
        match = MatchClass(pattern, &next, text[t]);
      } else {
        if (pattern[p] == '\\' && p + 1 < pattern.size()) next++;
        match = (pattern[p] == '?') || pattern[next] == text[t];
        next++;
      }
    }
    if (match) {
      p = next;
      t++;
    } else if (star != std::string::npos) {
      p = star + 1;
      t = ++star_text;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') p++;
  return p == pattern.size();
}

int64_t NowMillis() {
  timeval now;
  gettimeofday(&now, nullptr);
  return static_cast<int64_t>(now.tv_sec) * 1000 + now.tv_usec / 1000;
}

std::string FormatTime(time_t when, const char* format) {
  tm parts;
  localtime_r(&when, &parts);
  char text[64];
  return std::string(text, strftime(text, sizeof(text), format, &parts));
}

bool MakeFolders(const std::string& path) {
  for (size_t i = 1; i <= path.size(); i++) {
    if (i < path.size() && path[i] != '/') continue;
    if (mkdir(path.substr(0, i).c_str(), 0755) != 0 && errno != EEXIST) return false;
  }
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

std::vector<std::string> ListFolder(const std::string& path) {
  std::vector<std::string> names;
  DIR* folder = opendir(path.c_str());
  if (folder == nullptr) return names;
  while (const dirent* entry = readdir(folder)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  closedir(folder);
  std::sort(names.begin(), names.end());
  return names;
}

uint64_t FolderBytes(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0 || S_ISLNK(info.st_mode)) return 0;
  if (!S_ISDIR(info.st_mode)) return static_cast<uint64_t>(info.st_size);
  uint64_t total = 0;
  for (const std::string& name : ListFolder(path)) total += FolderBytes(path + "/" + name);
  return total;
}

bool RemoveAll(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) return errno == ENOENT;
  if (!S_ISDIR(info.st_mode)) return unlink(path.c_str()) == 0;
  for (const std::string& name : ListFolder(path)) RemoveAll(path + "/" + name);
  return rmdir(path.c_str()) == 0;
}

namespace {

bool CopyBytes(int from, int to) {
  char chunk[64 << 10];
  for (;;) {
    const ssize_t n = read(from, chunk, sizeof(chunk));
    if (n == 0) return true;
    if (n < 0) return false;
    for (ssize_t done = 0; done < n;) {
      const ssize_t written = write(to, chunk + done, static_cast<size_t>(n - done));
      if (written < 0) return false;
      done += written;
    }
  }
}

}  // namespace

bool LinkOrCopy(const std::string& from, const std::string& to) {
  if (link(from.c_str(), to.c_str()) == 0) return true;
  // Another file system, or one without hard links.
  if (errno != EXDEV && errno != EPERM && errno != EMLINK) return false;
  const int in = open(from.c_str(), O_RDONLY | O_CLOEXEC);
  if (in < 0) return false;
  const int out = open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  const bool copied = out >= 0 && CopyBytes(in, out);
  close(in);
  return out >= 0 && close(out) == 0 && copied;
}
