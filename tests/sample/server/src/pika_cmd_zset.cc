// Sorted sets. Each member has two parts: member -> score, and score and member
// -> score, which the storage library keeps in order.
#include <algorithm>
#include <map>
#include <set>

#include "pika_command.h"
#include "pika_storage.h"
#include "pika_util.h"

namespace {

bool IsZset(Request* r, bool exists, Meta* meta) {
  if (!exists) meta->type = kZset;
  if (meta->type != kZset) r->reply.WrongType();
  return meta->type == kZset;
}

std::string MemberKey(const std::string& key, const std::string& member) {
  return PartPrefix('z', key) + member;
}

std::string OrderKey(const std::string& key, double score, const std::string& member) {
  return PartPrefix('o', key) + EncodeScore(score) + member;
}

void ZAdd(Request* r) {
  if (r->args.size() % 2 != 0) return r->reply.Error("ERR syntax error");
  // The last score given for a member counts.
  std::map<std::string, double> scores;
  for (size_t i = 2; i < r->args.size(); i += 2) {
    double score = 0;
    if (!ParseScore(r->args[i], &score)) return r->reply.Error("ERR value is not a valid float");
    scores[r->args[i + 1]] = score;
  }
  const std::string& key = r->args[1];
  Meta meta;
  if (!IsZset(r, r->storage->FindForWrite(key, &meta), &meta)) return;

  rocksdb::WriteBatch batch;
  int64_t added = 0;
  for (const auto& item : scores) {
    std::string old;
    if (r->storage->GetPart(MemberKey(key, item.first), &old)) {
      batch.Delete(OrderKey(key, RawNumber(old), item.first));
    } else {
      added++;
    }
    const std::string raw = RawNumber(item.second);
    batch.Put(MemberKey(key, item.first), raw);
    batch.Put(OrderKey(key, item.second, item.first), raw);
  }
  meta.count += added;
  r->storage->Store(key, meta, &batch);
  r->storage->Commit(batch);
  r->reply.Integer(added);
}

void ZRange(Request* r) {
  int64_t start = 0, stop = 0;
  if (!ParseInt(r->args[2], &start) || !ParseInt(r->args[3], &stop)) {
    return r->reply.Error("ERR value is not an integer or out of range");
  }
  const bool with_scores = r->args.size() == 5 && Lower(r->args[4]) == "withscores";
  if (r->args.size() > 4 && !with_scores) return r->reply.Error("ERR syntax error");
  Meta meta;
  if (!IsZset(r, r->storage->Find(r->args[1], &meta), &meta)) return;
  if (start < 0) start = std::max<int64_t>(0, start + meta.count);
  if (stop < 0) stop += meta.count;
  stop = std::min(stop, meta.count - 1);

  std::vector<std::string> items;
  const std::string prefix = PartPrefix('o', r->args[1]);
  int64_t rank = 0;
  if (start <= stop) {
    r->storage->ScanParts(prefix, [&](const std::string& name) {
      if (rank >= start) items.push_back(name.substr(EncodeScore(0).size()));
      if (rank >= start && with_scores) {
        std::string raw;
        r->storage->GetPart(prefix + name, &raw);
        items.push_back(FormatScore(RawNumber(raw)));
      }
      return ++rank <= stop;
    });
  }
  r->reply.Bulks(items);
}

void ZScore(Request* r) {
  Meta meta;
  std::string raw;
  if (!IsZset(r, r->storage->Find(r->args[1], &meta), &meta)) return;
  if (meta.count == 0 || !r->storage->GetPart(MemberKey(r->args[1], r->args[2]), &raw)) {
    return r->reply.Nil();
  }
  r->reply.Bulk(FormatScore(RawNumber(raw)));
}

void ZCard(Request* r) {
  Meta meta;
  if (IsZset(r, r->storage->Find(r->args[1], &meta), &meta)) r->reply.Integer(meta.count);
}

void ZRem(Request* r) {
  const std::string& key = r->args[1];
  Meta meta;
  if (!IsZset(r, r->storage->FindForWrite(key, &meta), &meta)) return;
  const std::set<std::string> members(r->args.begin() + 2, r->args.end());
  rocksdb::WriteBatch batch;
  int64_t removed = 0;
  for (const std::string& member : members) {
    std::string raw;
    if (!r->storage->GetPart(MemberKey(key, member), &raw)) continue;
    batch.Delete(MemberKey(key, member));
    batch.Delete(OrderKey(key, RawNumber(raw), member));
    removed++;
  }
  if (removed > 0) {
    meta.count -= removed;
    r->storage->Store(key, meta, &batch);
    r->storage->Commit(batch);
  }
  r->reply.Integer(removed);
}

const Command kCommands[] = {
    {"zadd", -4, kWrite, ZAdd},  {"zrange", -4, kRead, ZRange}, {"zscore", 3, kRead, ZScore},
    {"zcard", 2, kRead, ZCard},  {"zrem", -3, kWrite, ZRem},
};

}  // namespace

void AddZsetCommands(CommandTable* table) {
  for (const Command& command : kCommands) (*table)[command.name] = command;
}
