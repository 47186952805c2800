#include "pika_conf.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <fstream>
#include <set>

#include "pika_util.h"

namespace {

enum Kind { kText, kNumber, kFlag };

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
    {"timeout", kNumber, "60", true},
    {"max-conn-rbuf-size", kNumber, "268435456", true},
    {"write-binlog", kFlag, "yes", true},
    {"slave-read-only", kFlag, "yes", true},
    {"compression", kText, "snappy", false},
    {"slaveof", kText, "", false},
};

const KeyInfo* FindKey(const std::string& name) {
  for (const KeyInfo& key : kKeys) {
    if (name == key.name) return &key;
  }
  return nullptr;
}

bool IsValid(const KeyInfo& key, const std::string& value) {
  int64_t number = 0;
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
    if (GlobMatch(pattern, item.first)) found.push_back(item);
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
