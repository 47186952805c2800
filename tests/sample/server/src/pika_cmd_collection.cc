// Hashes, sets and lists.
#include <algorithm>
#include <map>
#include <set>

#include "pika_command.h"
#include "pika_storage.h"
#include "pika_util.h"

namespace {

// The collection of that type at args[1]: a present one, or an empty one if
// there is none. False, with an error reply, if the key holds another type.
bool Open(Request* r, ValueType type, Meta* meta) {
  if (!r->storage->Find(r->args[1], meta)) {
    meta->type = type;
    return true;
  }
  if (meta->type != type) r->reply.WrongType();
  return meta->type == type;
}

bool OpenForWrite(Request* r, ValueType type, Meta* meta) {
  if (!r->storage->FindForWrite(r->args[1], meta)) {
    meta->type = type;
    return true;
  }
  if (meta->type != type) r->reply.WrongType();
  return meta->type == type;
}

void ReplyCount(Request* r, ValueType type) {
  Meta meta;
  if (Open(r, type, &meta)) r->reply.Integer(meta.count);
}

// Removes the parts that args from 2 on name, each once.
void RemoveParts(Request* r, ValueType type, char part) {
  Meta meta;
  if (!OpenForWrite(r, type, &meta)) return;
  const std::string prefix = PartPrefix(part, r->args[1]);
  const std::set<std::string> names(r->args.begin() + 2, r->args.end());
  rocksdb::WriteBatch batch;
  int64_t removed = 0;
  for (const std::string& name : names) {
    if (!r->storage->db()->Contains(prefix + name)) continue;
    batch.Delete(prefix + name);
    removed++;
  }
  if (removed > 0) {
    meta.count -= removed;
    r->storage->Store(r->args[1], meta, &batch);
    r->storage->Commit(batch);
  }
  r->reply.Integer(removed);
}

// Hashes.

int64_t PutFields(Request* r, Meta* meta, const std::map<std::string, std::string>& fields) {
  const std::string prefix = PartPrefix('h', r->args[1]);
  rocksdb::WriteBatch batch;
  int64_t added = 0;
  for (const auto& field : fields) {
    if (!r->storage->db()->Contains(prefix + field.first)) added++;
    batch.Put(prefix + field.first, field.second);
  }
  meta->count += added;
  r->storage->Store(r->args[1], *meta, &batch);
  r->storage->Commit(batch);
  return added;
}

bool TakeFields(Request* r, std::map<std::string, std::string>* fields) {
  if (r->args.size() % 2 != 0) {
    r->reply.Error("ERR wrong number of arguments for '" + Lower(r->args[0]) + "' command");
    return false;
  }
  for (size_t i = 2; i < r->args.size(); i += 2) (*fields)[r->args[i]] = r->args[i + 1];
  return true;
}

void HSet(Request* r) {
  Meta meta;
  std::map<std::string, std::string> fields;
  if (!TakeFields(r, &fields) || !OpenForWrite(r, kHash, &meta)) return;
  r->reply.Integer(PutFields(r, &meta, fields));
}

void HMSet(Request* r) {
  Meta meta;
  std::map<std::string, std::string> fields;
  if (!TakeFields(r, &fields) || !OpenForWrite(r, kHash, &meta)) return;
  PutFields(r, &meta, fields);
  r->reply.Ok();
}

void HGet(Request* r) {
  Meta meta;
  std::string value;
  if (!Open(r, kHash, &meta)) return;
  if (meta.count == 0 || !r->storage->GetPart(PartPrefix('h', r->args[1]) + r->args[2], &value)) {
    return r->reply.Nil();
  }
  r->reply.Bulk(value);
}

void HGetAll(Request* r) {
  Meta meta;
  if (!Open(r, kHash, &meta)) return;
  std::vector<std::string> items;
  const std::string prefix = PartPrefix('h', r->args[1]);
  // A hash whose time is over counts as empty, though its parts are still there.
  if (meta.count > 0) {
    r->storage->ScanParts(prefix, [&](const std::string& field) {
      std::string value;
      r->storage->GetPart(prefix + field, &value);
      items.push_back(field);
      items.push_back(value);
      return true;
    });
  }
  r->reply.Bulks(items);
}

void HLen(Request* r) { ReplyCount(r, kHash); }
void HDel(Request* r) { RemoveParts(r, kHash, 'h'); }

// Sets.

void SAdd(Request* r) {
  Meta meta;
  if (!OpenForWrite(r, kSet, &meta)) return;
  const std::string prefix = PartPrefix('s', r->args[1]);
  const std::set<std::string> members(r->args.begin() + 2, r->args.end());
  rocksdb::WriteBatch batch;
  int64_t added = 0;
  for (const std::string& member : members) {
    if (r->storage->db()->Contains(prefix + member)) continue;
    batch.Put(prefix + member, "");
    added++;
  }
  if (added > 0) {
    meta.count += added;
    r->storage->Store(r->args[1], meta, &batch);
    r->storage->Commit(batch);
  }
  r->reply.Integer(added);
}

void SMembers(Request* r) {
  Meta meta;
  if (!Open(r, kSet, &meta)) return;
  std::vector<std::string> members;
  if (meta.count > 0) {
    r->storage->ScanParts(PartPrefix('s', r->args[1]), [&](const std::string& member) {
      members.push_back(member);
      return true;
    });
  }
  r->reply.Bulks(members);
}

void SIsMember(Request* r) {
  Meta meta;
  if (!Open(r, kSet, &meta)) return;
  const std::string part = PartPrefix('s', r->args[1]) + r->args[2];
  r->reply.Integer(meta.count > 0 && r->storage->db()->Contains(part));
}

void SCard(Request* r) { ReplyCount(r, kSet); }
void SRem(Request* r) { RemoveParts(r, kSet, 's'); }

// Lists: elements have consecutive indexes from meta.head on, which grow to
// both sides of zero.

std::string ElementKey(const std::string& key, int64_t index) {
  return PartPrefix('l', key) + EncodeIndex(index);
}

void Push(Request* r, bool left) {
  Meta meta;
  if (!OpenForWrite(r, kList, &meta)) return;
  rocksdb::WriteBatch batch;
  for (size_t i = 2; i < r->args.size(); i++) {
    const int64_t index = left ? --meta.head : meta.head + meta.count;
    meta.count++;
    batch.Put(ElementKey(r->args[1], index), r->args[i]);
  }
  r->storage->Store(r->args[1], meta, &batch);
  r->storage->Commit(batch);
  r->reply.Integer(meta.count);
}

void LPush(Request* r) { Push(r, true); }
void RPush(Request* r) { Push(r, false); }

void Pop(Request* r, bool left) {
  Meta meta;
  if (!OpenForWrite(r, kList, &meta)) return;
  if (meta.count == 0) return r->reply.Nil();
  const std::string element =
      ElementKey(r->args[1], left ? meta.head : meta.head + meta.count - 1);
  std::string value;
  r->storage->GetPart(element, &value);
  meta.count--;
  if (left) meta.head++;
  rocksdb::WriteBatch batch;
  batch.Delete(element);
  r->storage->Store(r->args[1], meta, &batch);
  r->storage->Commit(batch);
  r->reply.Bulk(value);
}

void LPop(Request* r) { Pop(r, true); }
void RPop(Request* r) { Pop(r, false); }

void LRange(Request* r) {
  int64_t start = 0, stop = 0;
  if (!ParseInt(r->args[2], &start) || !ParseInt(r->args[3], &stop)) {
    return r->reply.Error("ERR value is not an integer or out of range");
  }
  Meta meta;
  if (!Open(r, kList, &meta)) return;
  if (start < 0) start = std::max<int64_t>(0, start + meta.count);
  if (stop < 0) stop += meta.count;
  stop = std::min(stop, meta.count - 1);
  std::vector<std::string> items;
  for (int64_t i = start; i <= stop; i++) {
    std::string value;
    r->storage->GetPart(ElementKey(r->args[1], meta.head + i), &value);
    items.push_back(value);
  }
  r->reply.Bulks(items);
}

void LLen(Request* r) { ReplyCount(r, kList); }

const Command kCommands[] = {
    {"hset", -4, kWrite, HSet},       {"hmset", -4, kWrite, HMSet},
    {"hget", 3, kRead, HGet},         {"hgetall", 2, kRead, HGetAll},
    {"hlen", 2, kRead, HLen},         {"hdel", -3, kWrite, HDel},
    {"sadd", -3, kWrite, SAdd},       {"smembers", 2, kRead, SMembers},
    {"sismember", 3, kRead, SIsMember}, {"scard", 2, kRead, SCard},
    {"srem", -3, kWrite, SRem},       {"lpush", -3, kWrite, LPush},
    {"rpush", -3, kWrite, RPush},     {"lpop", 2, kWrite, LPop},
    {"rpop", 2, kWrite, RPop},        {"lrange", 4, kRead, LRange},
    {"llen", 2, kRead, LLen},
};

}  // namespace

void AddCollectionCommands(CommandTable* table) {
  for (const Command& command : kCommands) (*table)[command.name] = command;
}
