#ifndef PIKA_CONF_H_
#define PIKA_CONF_H_

#include <stdint.h>

#include <map>
#include <mutex>
#include <string>
#include <vector>

// The configuration file, `key : value` in each line. May be used by several
// threads.
class PikaConf {
 public:
  PikaConf();

  bool Load(const std::string& path, std::string* error);

  std::string Get(const std::string& key) const;
  int64_t GetInt(const std::string& key) const;
  // Of a size such as 256M, in bytes.
  uint64_t GetBytes(const std::string& key) const;
  bool GetBool(const std::string& key) const { return Get(key) == "yes"; }
  // A folder, always with a slash at its end.
  std::string GetFolder(const std::string& key) const;

  // Known keys and their values, in order; sizes in bytes.
  std::vector<std::pair<std::string, std::string>> Matching(const std::string& pattern) const;

  // For changes at run time; false with the text of the reply if the key
  // cannot be changed, or not to that.
  bool SetAtRunTime(const std::string& key, const std::string& value, std::string* error);
  void Set(const std::string& key, const std::string& value);

  // Writes the values back into the file, keeping its comments and the keys
  // that this version does not know.
  bool Rewrite(std::string* error) const;

  const std::string& path() const { return path_; }

 private:
  bool Check(std::string* error) const;

  std::string path_;
  mutable std::mutex mutex_;
  std::map<std::string, std::string> values_;
};

#endif  // PIKA_CONF_H_
