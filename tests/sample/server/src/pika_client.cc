#include "pika_client.h"

#include <glog/logging.h>
#include <stdlib.h>
#include <time.h>

#include <algorithm>

#include "pika_server.h"
#include "pika_util.h"

namespace {

int64_t MonotonicMicros() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000 + now.tv_nsec / 1000;
}

}  // namespace

PikaClientConn::PikaClientConn(int fd, const std::string& ip, int port, PikaServer* server)
    : RedisConn(fd, ip, port), server_(server), created_(pink::MonotonicSeconds()) {
  const bool open = server->conf()->Get("requirepass").empty() &&
                    server->conf()->Get("userpass").empty();
  rights_ = open ? kAdministrator : kNobody;
}

bool PikaClientConn::Authenticate(const std::string& password) {
  const std::string admin = server_->conf()->Get("requirepass");
  const std::string user = server_->conf()->Get("userpass");
  // With equal passwords there are no users.
  if (!admin.empty() && password == admin) {
    rights_ = kAdministrator;
  } else if (!user.empty() && password == user) {
    rights_ = kUser;
  } else {
    return false;
  }
  return true;
}

std::string PikaClientConn::Refusal(const Command& command, size_t words) const {
  const std::string name = command.name;
  if (rights_ == kNobody && !(command.flags & kNoAuth)) {
    return "NOAUTH Authentication required.";
  }
  const size_t arity = static_cast<size_t>(std::abs(command.arity));
  if (command.arity > 0 ? words != arity : words < arity) {
    return "ERR wrong number of arguments for '" + name + "' command";
  }
  if (rights_ == kUser) {
    const auto banned = Split(Lower(server_->conf()->Get("userblacklist")), ',');
    if (std::find(banned.begin(), banned.end(), name) != banned.end()) {
      return "ERR unknown or unsupported command '" + name + "'";
    }
  }
  if ((command.flags & kWrite) && server_->read_only()) {
    return "READONLY You can't write against a read only slave.";
  }
  return std::string();
}

void PikaClientConn::Run(const Command& command, const pink::RedisCmdArgs& args,
                         std::string* out) {
  const size_t before = out->size();
  Request request = {args, server_, this, server_->storage(), Reply(out)};
  try {
    if (command.flags & kWrite) {
      PikaStorage::WriteLock lock(server_->storage());
      // Again under the lock: the server may have become a replica meanwhile.
      const std::string refusal = Refusal(command, args.size());
      if (!refusal.empty()) return request.reply.Error(refusal);
      command.run(&request);
    } else if (command.flags & kRead) {
      PikaStorage::ReadLock lock(server_->storage());
      command.run(&request);
    } else {
      command.run(&request);
    }
  } catch (const StorageError& error) {
    LOG(ERROR) << command.name << ": " << error.what();
    out->resize(before);  // no half of a reply
    Reply(out).Error(std::string("ERR storage: ") + error.what());
  }
}

bool PikaClientConn::DealMessage(const pink::RedisCmdArgs& args, std::string* out) {
  const int64_t begin = MonotonicMicros();
  const std::string name = Lower(args[0]);
  const Command* command = FindCommand(name);
  if (command == nullptr) {
    // Only the printable part: the reply is one line.
    std::string shown = name.substr(0, 128);
    for (char& c : shown) c = c >= ' ' && c < 127 ? c : '?';
    Reply(out).Error("ERR unknown command '" + shown + "'");
  } else {
    const std::string refusal = Refusal(*command, args.size());
    if (refusal.empty()) {
      Run(*command, args, out);
      server_->CountCommand(name);
    } else {
      Reply(out).Error(refusal);
    }
  }
  const int64_t end = MonotonicMicros();
  server_->latency()->Record(end - begin, end / 1000000);
  return !leaving_;
}
