// The ids that a post-processor puts around those of a text. Entry point: make_template(). Tested
// by tests/runtime/tokenizer_test.cpp.
#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_parts.h"

namespace shunt::tokenizer {

namespace {

/// Ids of the special token that a TemplateProcessing names.
void append_special(const Node& special_tokens, const std::string& name, Template& ids) {
  const Node entry = special_tokens.get(name);
  if (entry.is_null())
    special_tokens.fail("{}, which the template uses, is missing", quote_name(name));
  for (const Node& id : entry.get("ids").items()) ids.emplace_back(id.id());
}

Template make_template_processing(const Node& node) {
  Template ids;
  for (const Node& piece : node.get("single").items()) {
    if (const Node sequence = piece.get("Sequence"); !sequence.is_null()) {
      if (sequence.get("id").string() != "A")
        sequence.fail("a single text has no sequence other than A");
      ids.emplace_back(std::nullopt);
    } else {
      append_special(node.get("special_tokens"), piece.get("SpecialToken").get("id").string(), ids);
    }
  }
  return ids;
}

/// Of ["[CLS]", 101].
int32_t id_of(const Node& node) {
  const std::vector<Node> parts = node.items();
  if (parts.size() != 2) node.fail("must be [token, id]");
  return parts[1].id();
}

}  // namespace

Template make_template(const Node& node) {
  if (node.is_null()) return {std::nullopt};
  const std::string kind = node.kind();
  if (kind == "ByteLevel") return {std::nullopt};  // moves offsets only
  if (kind == "BertProcessing" || kind == "RobertaProcessing") {
    return {id_of(node.get("cls")), std::nullopt, id_of(node.get("sep"))};
  }
  if (kind == "TemplateProcessing") return make_template_processing(node);
  if (kind == "Sequence") {
    Template all = {std::nullopt};
    for (const Node& item : node.get("processors").items()) {
      Template outer;
      for (const auto& id : make_template(item)) {
        if (id) {
          outer.push_back(id);
        } else {
          outer.insert(outer.end(), all.begin(), all.end());
        }
        if (outer.size() > kMaxTemplate) node.fail("templates of more than {} ids", kMaxTemplate);
      }
      all = std::move(outer);
    }
    return all;
  }
  node.unsupported("post-processor " + quote_name(kind));
}

}  // namespace shunt::tokenizer
