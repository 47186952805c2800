// Strings, and the commands that treat keys of all types alike.
#include <limits>

#include "pika_command.h"
#include "pika_storage.h"
#include "pika_util.h"

namespace {

const char kNotInteger[] = "ERR value is not an integer or out of range";
const char kSyntax[] = "ERR syntax error";

// Replaces whatever the key holds.
void PutString(Request* r, const std::string& key, const std::string& value, int64_t expire_ms,
               rocksdb::WriteBatch* batch) {
  Meta old;
  if (r->storage->FindForWrite(key, &old) && old.type != kString) {
    r->storage->Remove(key, old, batch);
  }
  Meta meta;
  meta.value = value;
  meta.expire_ms = expire_ms;
  r->storage->Store(key, meta, batch);
}

// A time to live as a time; false with an error reply.
bool ParseExpiry(Request* r, const std::string& text, int64_t unit_ms, int64_t* expire_ms) {
  int64_t number = 0;
  if (!ParseInt(text, &number)) {
    r->reply.Error(kNotInteger);
    return false;
  }
  const int64_t now = NowMillis();
  if (number <= 0 || number > (std::numeric_limits<int64_t>::max() - now) / unit_ms) {
    r->reply.Error("ERR invalid expire time in '" + Lower(r->args[0]) + "' command");
    return false;
  }
  *expire_ms = now + number * unit_ms;
  return true;
}

void Set(Request* r) {
  bool only_new = false, only_old = false;
  int64_t expire_ms = 0;
  for (size_t i = 3; i < r->args.size(); i++) {
    const std::string option = Lower(r->args[i]);
    if (option == "nx") {
      only_new = true;
    } else if (option == "xx") {
      only_old = true;
    } else if ((option == "ex" || option == "px") && i + 1 < r->args.size() && expire_ms == 0) {
      if (!ParseExpiry(r, r->args[++i], option == "ex" ? 1000 : 1, &expire_ms)) return;
    } else {
      return r->reply.Error(kSyntax);
    }
  }
  if (only_new && only_old) return r->reply.Error(kSyntax);

  Meta old;
  const bool exists = r->storage->FindForWrite(r->args[1], &old);
  if ((only_new && exists) || (only_old && !exists)) return r->reply.Nil();
  rocksdb::WriteBatch batch;
  PutString(r, r->args[1], r->args[2], expire_ms, &batch);
  r->storage->Commit(batch);
  r->reply.Ok();
}

void SetEx(Request* r) {
  int64_t expire_ms = 0;
  if (!ParseExpiry(r, r->args[2], 1000, &expire_ms)) return;
  rocksdb::WriteBatch batch;
  PutString(r, r->args[1], r->args[3], expire_ms, &batch);
  r->storage->Commit(batch);
  r->reply.Ok();
}

void Get(Request* r) {
  Meta meta;
  if (!r->storage->Find(r->args[1], &meta)) return r->reply.Nil();
  if (meta.type != kString) return r->reply.WrongType();
  r->reply.Bulk(meta.value);
}

void StrLen(Request* r) {
  Meta meta;
  if (!r->storage->Find(r->args[1], &meta)) return r->reply.Integer(0);
  if (meta.type != kString) return r->reply.WrongType();
  r->reply.Integer(static_cast<int64_t>(meta.value.size()));
}

void Append(Request* r) {
  Meta meta;
  r->storage->FindForWrite(r->args[1], &meta);
  if (meta.type != kString) return r->reply.WrongType();
  meta.value += r->args[2];
  rocksdb::WriteBatch batch;
  r->storage->Store(r->args[1], meta, &batch);
  r->storage->Commit(batch);
  r->reply.Integer(static_cast<int64_t>(meta.value.size()));
}

void IncrementBy(Request* r, int64_t step) {
  Meta meta;
  int64_t number = 0;
  const bool exists = r->storage->FindForWrite(r->args[1], &meta);
  if (meta.type != kString) return r->reply.WrongType();
  if (exists && !ParseInt(meta.value, &number)) return r->reply.Error(kNotInteger);
  const int64_t kMax = std::numeric_limits<int64_t>::max();
  const int64_t kMin = std::numeric_limits<int64_t>::min();
  if ((step > 0 && number > kMax - step) || (step < 0 && number < kMin - step)) {
    return r->reply.Error("ERR increment or decrement would overflow");
  }
  number += step;
  meta.value = std::to_string(number);
  rocksdb::WriteBatch batch;
  r->storage->Store(r->args[1], meta, &batch);
  r->storage->Commit(batch);
  r->reply.Integer(number);
}

void Incr(Request* r) { IncrementBy(r, 1); }
void Decr(Request* r) { IncrementBy(r, -1); }

void IncrBy(Request* r) {
  int64_t step = 0;
  if (!ParseInt(r->args[2], &step)) return r->reply.Error(kNotInteger);
  IncrementBy(r, step);
}

void MSet(Request* r) {
  if (r->args.size() % 2 == 0) {
    return r->reply.Error("ERR wrong number of arguments for 'mset' command");
  }
  rocksdb::WriteBatch batch;
  for (size_t i = 1; i < r->args.size(); i += 2) {
    PutString(r, r->args[i], r->args[i + 1], 0, &batch);
  }
  r->storage->Commit(batch);
  r->reply.Ok();
}

void MGet(Request* r) {
  r->reply.Array(r->args.size() - 1);
  for (size_t i = 1; i < r->args.size(); i++) {
    Meta meta;
    if (r->storage->Find(r->args[i], &meta) && meta.type == kString) {
      r->reply.Bulk(meta.value);
    } else {
      r->reply.Nil();
    }
  }
}

void Del(Request* r) {
  int64_t removed = 0;
  for (size_t i = 1; i < r->args.size(); i++) {
    Meta meta;
    if (!r->storage->FindForWrite(r->args[i], &meta)) continue;
    rocksdb::WriteBatch batch;
    r->storage->Remove(r->args[i], meta, &batch);
    r->storage->Commit(batch);
    removed++;
  }
  r->reply.Integer(removed);
}

void Exists(Request* r) {
  int64_t found = 0;
  Meta meta;
  for (size_t i = 1; i < r->args.size(); i++) found += r->storage->Find(r->args[i], &meta);
  r->reply.Integer(found);
}

void Type(Request* r) {
  Meta meta;
  if (!r->storage->Find(r->args[1], &meta)) return r->reply.Status("none");
  switch (meta.type) {
    case kString: return r->reply.Status("string");
    case kHash: return r->reply.Status("hash");
    case kList: return r->reply.Status("list");
    case kSet: return r->reply.Status("set");
    case kZset: return r->reply.Status("zset");
  }
}

void ExpireIn(Request* r, int64_t unit_ms) {
  int64_t number = 0;
  if (!ParseInt(r->args[2], &number)) return r->reply.Error(kNotInteger);
  Meta meta;
  if (!r->storage->FindForWrite(r->args[1], &meta)) return r->reply.Integer(0);
  rocksdb::WriteBatch batch;
  if (number <= 0) {
    r->storage->Remove(r->args[1], meta, &batch);
  } else {
    if (!ParseExpiry(r, r->args[2], unit_ms, &meta.expire_ms)) return;
    r->storage->Store(r->args[1], meta, &batch);
  }
  r->storage->Commit(batch);
  r->reply.Integer(1);
}

void Expire(Request* r) { ExpireIn(r, 1000); }
void PExpire(Request* r) { ExpireIn(r, 1); }

void TimeToLive(Request* r, int64_t unit_ms) {
  Meta meta;
  if (!r->storage->Find(r->args[1], &meta)) return r->reply.Integer(-2);
  if (meta.expire_ms == 0) return r->reply.Integer(-1);
  r->reply.Integer((meta.expire_ms - NowMillis() + unit_ms / 2) / unit_ms);
}

void Ttl(Request* r) { TimeToLive(r, 1000); }
void PTtl(Request* r) { TimeToLive(r, 1); }

void Persist(Request* r) {
  Meta meta;
  if (!r->storage->FindForWrite(r->args[1], &meta) || meta.expire_ms == 0) {
    return r->reply.Integer(0);
  }
  meta.expire_ms = 0;
  rocksdb::WriteBatch batch;
  r->storage->Store(r->args[1], meta, &batch);
  r->storage->Commit(batch);
  r->reply.Integer(1);
}

void Keys(Request* r) {
  std::vector<std::string> found;
  r->storage->ScanKeys("", [&](const std::string& key) {
    Meta meta;
    if (GlobMatch(r->args[1], key) && r->storage->Find(key, &meta)) found.push_back(key);
    return true;
  });
  r->reply.Bulks(found);
}

void FlushAll(Request* r) {
  rocksdb::WriteBatch batch;
  batch.Clear();
  r->storage->Commit(batch);
  r->reply.Ok();
}

const Command kCommands[] = {
    {"set", -3, kWrite, Set},       {"setex", 4, kWrite, SetEx},
    {"get", 2, kRead, Get},         {"strlen", 2, kRead, StrLen},
    {"append", 3, kWrite, Append},  {"incr", 2, kWrite, Incr},
    {"decr", 2, kWrite, Decr},      {"incrby", 3, kWrite, IncrBy},
    {"mset", -3, kWrite, MSet},     {"mget", -2, kRead, MGet},
    {"del", -2, kWrite, Del},       {"exists", -2, kRead, Exists},
    {"type", 2, kRead, Type},       {"expire", 3, kWrite, Expire},
    {"pexpire", 3, kWrite, PExpire}, {"ttl", 2, kRead, Ttl},
    {"pttl", 2, kRead, PTtl},       {"persist", 2, kWrite, Persist},
    {"keys", 2, kRead, Keys},       {"flushall", 1, kWrite, FlushAll},
};

}  // namespace

void AddStringCommands(CommandTable* table) {
  for (const Command& command : kCommands) (*table)[command.name] = command;
}
