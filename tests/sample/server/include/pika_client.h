#ifndef PIKA_CLIENT_H_
#define PIKA_CLIENT_H_

#include <string>

#include "pika_command.h"
#include "pink/redis_conn.h"

class PikaServer;

class PikaClientConn : public pink::RedisConn {
 public:
  PikaClientConn(int fd, const std::string& ip, int port, PikaServer* server);

  bool DealMessage(const pink::RedisCmdArgs& args, std::string* out) override;

  // True if one of the passwords fits.
  bool Authenticate(const std::string& password);
  bool is_local() const { return ip() == "127.0.0.1"; }
  int64_t created() const { return created_; }
  // The connection ends after the reply.
  void CloseAfterReply() { leaving_ = true; }

 private:
  enum Rights { kNobody, kUser, kAdministrator };

  // Why this client may not run the command now; empty if it may.
  std::string Refusal(const Command& command, size_t words) const;
  void Run(const Command& command, const pink::RedisCmdArgs& args, std::string* out);

  PikaServer* const server_;
  const int64_t created_;
  Rights rights_;
  bool leaving_ = false;
};

#endif  // PIKA_CLIENT_H_
