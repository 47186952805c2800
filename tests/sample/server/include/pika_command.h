#ifndef PIKA_COMMAND_H_
#define PIKA_COMMAND_H_

#include <stdint.h>

#include <map>
#include <string>
#include <vector>

#include "pink/redis_parser.h"

class PikaClientConn;
class PikaServer;
class PikaStorage;

// Appends replies in the redis protocol.
class Reply {
 public:
  explicit Reply(std::string* out) : out_(out) {}

  void Ok() { Status("OK"); }
  void Status(const std::string& text) { *out_ += "+" + text + "\r\n"; }
  // The text begins with its kind: "ERR ...".
  void Error(const std::string& text) { *out_ += "-" + text + "\r\n"; }
  void WrongType();
  void Integer(int64_t number) { *out_ += ":" + std::to_string(number) + "\r\n"; }
  void Bulk(const std::string& data);
  void Nil() { *out_ += "$-1\r\n"; }
  // Announces that many further replies.
  void Array(size_t size) { *out_ += "*" + std::to_string(size) + "\r\n"; }
  void Bulks(const std::vector<std::string>& items);

 private:
  std::string* out_;
};

struct Request {
  const pink::RedisCmdArgs& args;
  PikaServer* server;
  PikaClientConn* client;
  PikaStorage* storage;
  Reply reply;
};

enum CommandFlags {
  kAdmin = 0,   // takes the storage's lock itself, if at all
  kRead = 1,    // runs under the read lock
  kWrite = 2,   // runs under the write lock; not on a read-only replica
  kNoAuth = 4,  // before AUTH too
};

struct Command {
  const char* name;  // in lower case
  int arity;         // words, the command's name included; negative: at least
  int flags;
  void (*run)(Request* request);
};

// nullptr if there is no such command; the name is in lower case.
const Command* FindCommand(const std::string& name);

// Each file of commands adds its own.
typedef std::map<std::string, Command> CommandTable;
void AddStringCommands(CommandTable* table);
void AddCollectionCommands(CommandTable* table);
void AddZsetCommands(CommandTable* table);
void AddAdminCommands(CommandTable* table);

#endif  // PIKA_COMMAND_H_
