#include "pika_command.h"

void Reply::WrongType() {
  Error("WRONGTYPE Operation against a key holding the wrong kind of value");
}

void Reply::Bulk(const std::string& data) {
  *out_ += "$" + std::to_string(data.size()) + "\r\n";
  *out_ += data;
  *out_ += "\r\n";
}

void Reply::Bulks(const std::vector<std::string>& items) {
  Array(items.size());
  for (const std::string& item : items) Bulk(item);
}

namespace {

CommandTable MakeTable() {
  CommandTable table;
  AddStringCommands(&table);
  AddCollectionCommands(&table);
  AddZsetCommands(&table);
  AddAdminCommands(&table);
  return table;
}

}  // namespace

const Command* FindCommand(const std::string& name) {
  static const CommandTable table = MakeTable();
  const auto found = table.find(name);
  return found == table.end() ? nullptr : &found->second;
}
