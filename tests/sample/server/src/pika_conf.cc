#include "pika_conf.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <fstream>
#include <limits>
#include <set>

#include "pika_util.h"

namespace {

// kLimit: a number, or -1 for none.
enum Kind { kText, kNumber, kLimit, kSize, kFlag };

struct KeyInfo {
  const char* name;
  Kind kind;
  const char* preset;
  bool at_run_time;  // CONFIG SET may change it
};

const KeyInfo kKeys[] = {
    {"port", kNumber, "9221", false},
    {"thread-num", kNumber, "1", false},
    {"thread-pool-size", kNumber, "4", false},
    {"sync-thread-num", kNumber, "6", false},
    {"server-id", kNumber, "1", false},
    {"log-path", kText, "./log/", false},
    {"db-path", kText, "./db/", false},
    {"databases", kNumber, "1", false},
    {"dump-path", kText, "./dump/", false},
    {"dump-prefix", kText, "", true},
    {"dump-expire", kNumber, "0", true},
    {"db-sync-path", kText, "./dbsync/", false},
    {"daemonize", kFlag, "no", false},
    {"pidfile", kText, "./pika.pid", false},
    {"requirepass", kText, "", true},
    {"masterauth", kText, "", true},
    {"userpass", kText, "", true},
    {"userblacklist", kText, "", true},
    {"maxclients", kNumber, "20000", true},
    {"root-connection-num", kNumber, "2", true},
    {"timeout", kNumber, "60", true},
    {"max-conn-rbuf-size", kNumber, "268435456", true},
    {"max-client-response-size", kSize, "1073741824", true},
    {"write-binlog", kFlag, "yes", true},
    {"binlog-file-size", kSize, "104857600", false},
    {"expire-logs-days", kNumber, "7", true},
    {"expire-logs-nums", kNumber, "10", true},
    {"slave-priority", kNumber, "100", true},
    {"slave-read-only", kFlag, "yes", true},
    {"compression", kText, "snappy", false},
    {"write-buffer-size", kSize, "268435456", false},
    {"max-write-buffer-size", kSize, "10737418240", false},
    {"max-write-buffer-num", kNumber, "2", false},
    {"block-size", kSize, "4096", false},
    {"block-cache", kSize, "8388608", false},
    {"share-block-cache", kFlag, "no", false},
    {"cache-index-and-filter-blocks", kFlag, "no", false},
    {"max-cache-files", kLimit, "5000", false},
    {"compact-cron", kText, "", true},
    {"compact-interval", kText, "", true},
    {"slaveof", kText, "", false},
};

const KeyInfo* FindKey(const std::string& name) {
  for (const KeyInfo& key : kKeys) {
    if (name == key.name) return &key;
  }
  return nullptr;
}

// A number of bytes, or of KiB, MiB, GiB with K, M, G behind it.
bool ParseSize(const std::string& text, uint64_t* bytes) {
  const std::string units = "kmg";
  std::string digits = Lower(text);
  if (!digits.empty() && digits[digits.size() - 1] == 'b') digits.erase(digits.size() - 1);
  const size_t unit = digits.empty() ? std::string::npos : units.find(digits[digits.size() - 1]);
  if (unit != std::string::npos) digits.erase(digits.size() - 1);
  const size_t shift = unit == std::string::npos ? 0 : 10 * (unit + 1);
  int64_t number = 0;
  const int64_t most = std::numeric_limits<int64_t>::max() >> shift;
  if (!ParseInt(digits, &number) || number < 0 || number > most) return false;
  *bytes = static_cast<uint64_t>(number) << shift;
  return true;
}

bool IsValid(const KeyInfo& key, const std::string& value) {
  int64_t number = 0;
  uint64_t bytes = 0;
  if (key.kind == kSize) return ParseSize(value, &bytes);
  if (key.kind == kLimit) return ParseInt(value, &number) && number >= -1;
  if (key.kind == kNumber) return ParseInt(value, &number) && number >= 0;
  if (key.kind == kFlag) return value == "yes" || value == "no";
  return value.find('\n') == std::string::npos;
}

// False for comments, blank lines, and lines without a colon.
bool ParseLine(const std::string& line, std::string* key, std::string* value) {
  const std::string text = Trim(line);
  const size_t colon = text.find(':');
  if (text.empty() || text[0] == '#' || colon == std::string::npos) return false;
  *key = Trim(text.substr(0, colon));
  *value = Trim(text.substr(colon + 1));
  return true;
}

}  // namespace

PikaConf::PikaConf() {
  for (const KeyInfo& key : kKeys) values_[key.name] = key.preset;
}

bool PikaConf::Load(const std::string& path, std::string* error) {
  std::ifstream file(path);
  if (!file) {
    *error = path + ": " + strerror(errno);
    return false;
  }
  path_ = path;
  std::string line, key, value;
  while (std::getline(file, line)) {
    if (ParseLine(line, &key, &value) && FindKey(key) != nullptr) values_[key] = value;
  }
  return Check(error);
}

bool PikaConf::Check(std::string* error) const {
  for (const KeyInfo& key : kKeys) {
    if (IsValid(key, values_.at(key.name))) continue;
    *error = path_ + ": bad value for " + key.name + ": " + values_.at(key.name);
    return false;
  }
  const int64_t port = GetInt("port");
  if (port < 1 || port > 65535 - 2000) {
    *error = path_ + ": port must be from 1 to 63535, as port+2000 is used too";
    return false;
  }
  if (GetInt("databases") != 1) {
    *error = path_ + ": this server has one database";
    return false;
  }
  const int64_t threads = GetInt("thread-pool-size");
  if (GetInt("thread-num") < 1 || GetInt("thread-num") > 24 || threads < 1 || threads > 100) {
    *error = path_ + ": thread-num must be from 1 to 24, thread-pool-size from 1 to 100";
    return false;
  }
  return true;
}

std::string PikaConf::Get(const std::string& key) const {
  std::lock_guard<std::mutex> lock(mutex_);
  return values_.at(key);
}

int64_t PikaConf::GetInt(const std::string& key) const {
  int64_t number = 0;
  ParseInt(Get(key), &number);
  return number;
}

uint64_t PikaConf::GetBytes(const std::string& key) const {
  uint64_t bytes = 0;
  ParseSize(Get(key), &bytes);
  return bytes;
}

std::string PikaConf::GetFolder(const std::string& key) const {
  std::string folder = Get(key);
  if (folder.empty()) folder = ".";
  if (folder[folder.size() - 1] != '/') folder += '/';
  return folder;
}

std::vector<std::pair<std::string, std::string>> PikaConf::Matching(
    const std::string& pattern) const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::pair<std::string, std::string>> found;
  for (const auto& item : values_) {
    if (!GlobMatch(pattern, item.first)) continue;
    found.push_back(item);
    uint64_t bytes = 0;
    if (FindKey(item.first)->kind == kSize && ParseSize(item.second, &bytes)) {
      found.back().second = std::to_string(bytes);
    }
  }
  return found;
}

bool PikaConf::SetAtRunTime(const std::string& key, const std::string& value,
                            std::string* error) {
  const KeyInfo* info = FindKey(key);
  if (info == nullptr || !info->at_run_time) {
    *error = "ERR Unsupported CONFIG parameter: " + key;
    return false;
  }
  if (!IsValid(*info, value)) {
    *error = "ERR Invalid argument '" + value + "' for CONFIG SET '" + key + "'";
    return false;
  }
  Set(key, value);
  return true;
}

void PikaConf::Set(const std::string& key, const std::string& value) {
  std::lock_guard<std::mutex> lock(mutex_);
  values_[key] = value;
}

bool PikaConf::Rewrite(std::string* error) const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::ifstream file(path_);
  std::string content, line, key, value;
  std::set<std::string> written;
  while (std::getline(file, line)) {
    if (ParseLine(line, &key, &value) && FindKey(key) != nullptr) {
      written.insert(key);
      if (values_.at(key) != value) line = key + " : " + values_.at(key);
    }
    content += line + "\n";
  }
  for (const KeyInfo& info : kKeys) {
    const std::string& now = values_.at(info.name);
    if (written.count(info.name) == 0 && now != info.preset) {
      content += std::string(info.name) + " : " + now + "\n";
    }
  }

  const std::string beside = path_ + ".tmp";
  std::ofstream out(beside);
  out << content;
  out.close();
  if (!out || rename(beside.c_str(), path_.c_str()) != 0) {
    *error = beside + ": " + strerror(errno);
    return false;
  }
  return true;
}
