// Commands about the connection and the server.
#include <glog/logging.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#ifdef TCMALLOC_EXTENSION
#include <gperftools/malloc_extension.h>
#endif

#include "pika_client.h"
#include "pika_command.h"
#include "pika_server.h"
#include "pika_util.h"

namespace {

void Ping(Request* r) {
  if (r->args.size() > 2) {
    r->reply.Error("ERR wrong number of arguments for 'ping' command");
  } else if (r->args.size() == 2) {
    r->reply.Bulk(r->args[1]);
  } else {
    r->reply.Status("PONG");
  }
}

void Echo(Request* r) { r->reply.Bulk(r->args[1]); }

void Quit(Request* r) {
  r->client->CloseAfterReply();
  r->reply.Ok();
}

void Select(Request* r) {
  int64_t index = 0;
  if (!ParseInt(r->args[1], &index)) return r->reply.Error("ERR invalid DB index");
  if (index != 0) return r->reply.Error("ERR invalid DB index for 'select', this server has one");
  r->reply.Ok();
}

void Auth(Request* r) {
  const PikaConf* conf = r->server->conf();
  if (conf->Get("requirepass").empty() && conf->Get("userpass").empty()) {
    return r->reply.Error("ERR Client sent AUTH, but no password is set");
  }
  if (!r->client->Authenticate(r->args[1])) return r->reply.Error("ERR invalid password");
  r->reply.Ok();
}

void Info(Request* r) {
  const std::string section = r->args.size() > 1 ? Lower(r->args[1]) : "";
  if (r->args.size() > 3 || (r->args.size() == 3 && section != "keyspace")) {
    return r->reply.Error("ERR syntax error");
  }
  if (r->args.size() == 3) {
    if (r->args[2] != "0" && r->args[2] != "1") return r->reply.Error("ERR syntax error");
    if (r->args[2] == "1") r->server->StartKeyspaceScan();
  }
  r->reply.Bulk(r->server->Info(section));
}

void DbSize(Request* r) {
  uint64_t keys = 0;
  for (const auto& counts : r->server->last_scan().counts) keys += counts.second.keys;
  r->reply.Integer(static_cast<int64_t>(keys));
}

void ConfigGet(Request* r) {
  const auto found = r->server->conf()->Matching(Lower(r->args[2]));
  r->reply.Array(2 * found.size());
  for (const auto& item : found) {
    r->reply.Bulk(item.first);
    r->reply.Bulk(item.second);
  }
}

void ConfigSet(Request* r) {
  std::string error;
  if (!r->server->conf()->SetAtRunTime(Lower(r->args[2]), r->args[3], &error)) {
    return r->reply.Error(error);
  }
  r->server->ApplyConf();
  r->reply.Ok();
}

void ConfigRewrite(Request* r) {
  const PikaSlave* slave = r->server->slave();
  const PikaSlave::Info info = slave->info();
  r->server->conf()->Set(
      "slaveof", slave->following() ? info.ip + ":" + std::to_string(info.port) : "");
  std::string error;
  // This version ends here if the folder of the file is not writable, which is
  // why a deployment has to make it so.
  if (!r->server->conf()->Rewrite(&error)) LOG(FATAL) << "config rewrite: " << error;
  r->reply.Ok();
}

void Config(Request* r) {
  const std::string what = Lower(r->args[1]);
  if (what == "get" && r->args.size() == 3) return ConfigGet(r);
  if (what == "set" && r->args.size() == 4) return ConfigSet(r);
  if (what == "rewrite" && r->args.size() == 2) return ConfigRewrite(r);
  r->reply.Error("ERR wrong number of arguments or unknown subcommand for 'config' command");
}

void BgSave(Request* r) {
  r->server->StartBgsave();
  r->reply.Status("Background saving started");
}

void SlaveOf(Request* r) {
  if (Lower(r->args[1]) == "no" && Lower(r->args[2]) == "one") {
    r->server->slave()->Leave();
    return r->reply.Ok();
  }
  int64_t port = 0;
  if (!ParseInt(r->args[2], &port) || port < 1 || port > 65535 - 2000) {
    return r->reply.Error("ERR value is not an integer or out of range");
  }
  if (r->args[1] == "127.0.0.1" && port == r->server->conf()->GetInt("port")) {
    return r->reply.Error("ERR a server cannot be its own slave");
  }
  r->server->slave()->Follow(r->args[1], static_cast<int>(port));
  r->reply.Ok();
}

std::string ClientAddress(const pink::RedisConn& conn) {
  return conn.ip() + ":" + std::to_string(conn.port());
}

void Client(Request* r) {
  const std::string what = Lower(r->args[1]);
  if (what == "list" && r->args.size() == 2) {
    std::string list;
    const int64_t now = pink::MonotonicSeconds();
    r->server->clients()->ForEach([&](const pink::RedisConn& conn) {
      list += "addr=" + ClientAddress(conn) + " fd=" + std::to_string(conn.fd()) +
              " idle=" + std::to_string(now - conn.last_active()) + "\n";
    });
    return r->reply.Bulk(list);
  }
  if (what == "kill" && r->args.size() == 3) {
    const std::string whom = Lower(r->args[2]);
    const size_t closed = r->server->clients()->CloseIf([&](const pink::RedisConn& conn) {
      return (whom == "all" && &conn != r->client) || whom == ClientAddress(conn);
    });
    if (closed == 0 && whom != "all") return r->reply.Error("ERR No such client");
    return r->reply.Ok();
  }
  r->reply.Error("ERR wrong number of arguments or unknown subcommand for 'client' command");
}

void Shutdown(Request* r) {
  if (!r->client->is_local()) return r->reply.Error("ERR 'shutdown' should be localhost");
  r->client->CloseAfterReply();
  // Takes the same way out as a signal from outside.
  kill(getpid(), SIGTERM);
}

#ifdef TCMALLOC_EXTENSION
void Tcmalloc(Request* r) {
  const std::string what = Lower(r->args[1]);
  MallocExtension* extension = MallocExtension::instance();
  if (what == "stats" && r->args.size() == 2) {
    char stats[1024];
    extension->GetStats(stats, sizeof(stats));
    return r->reply.Bulk(std::string(stats, strnlen(stats, sizeof(stats))));
  }
  if (what == "rate" && r->args.size() == 2) {
    return r->reply.Bulk(FormatScore(extension->GetMemoryReleaseRate()));
  }
  double rate = 0;
  if (what == "rate" && r->args.size() == 3 && ParseScore(r->args[2], &rate)) {
    extension->SetMemoryReleaseRate(rate);
    return r->reply.Ok();
  }
  if (what == "free" && r->args.size() == 2) {
    extension->ReleaseFreeMemory();
    return r->reply.Ok();
  }
  r->reply.Error("ERR wrong number of arguments or unknown subcommand for 'tcmalloc' command");
}
#endif

const Command kCommands[] = {
    {"ping", -1, kAdmin, Ping},
    {"echo", 2, kAdmin, Echo},
    {"quit", -1, kAdmin | kNoAuth, Quit},
    {"select", 2, kAdmin, Select},
    {"auth", 2, kAdmin | kNoAuth, Auth},
    {"info", -1, kAdmin, Info},
    {"dbsize", 1, kAdmin, DbSize},
    {"config", -2, kAdmin, Config},
    {"bgsave", -1, kAdmin, BgSave},
    {"slaveof", 3, kAdmin, SlaveOf},
    {"client", -2, kAdmin, Client},
    {"shutdown", -1, kAdmin, Shutdown},
#ifdef TCMALLOC_EXTENSION
    {"tcmalloc", -2, kAdmin, Tcmalloc},
#endif
};

}  // namespace

void AddAdminCommands(CommandTable* table) {
  for (const Command& command : kCommands) (*table)[command.name] = command;
}
