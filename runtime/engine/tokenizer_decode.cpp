// Ids back to text: decoders of tokenizer.json, and templates around the ids of a text. Entry
// points: make_token_decoder(), make_template(), StreamDecoder. Tested by
// tests/runtime/tokenizer_test.cpp.
#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer.h"
#include "runtime/engine/tokenizer_parts.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::tokenizer {

namespace {

class ByteLevelDecoder : public TokenDecoder {
 public:
  std::string bytes(std::string_view token) const override {
    std::string bytes;
    for (size_t at = 0; at < token.size();) {
      const Utf8Step step = utf8_step(token.substr(at));
      const auto byte = char_to_byte(step.code);
      // A token with a character outside the alphabet is an added one, and stands for itself.
      if (!byte) return std::string(token);
      bytes += static_cast<char>(*byte);
      at += step.length;
    }
    return bytes;
  }
};

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

}  // namespace

std::unique_ptr<TokenDecoder> make_token_decoder(const Node& node) {
  if (node.is_null()) node.unsupported("a tokenizer without decoder");
  const std::string kind = node.kind();
  if (kind == "ByteLevel") return std::make_unique<ByteLevelDecoder>();
  if (kind == "Sequence") {
    const std::vector<Node> items = node.get("decoders").items();
    if (items.size() != 1) node.unsupported("a sequence of several decoders");
    return make_token_decoder(items[0]);
  }
  node.unsupported("decoder " + quote_name(kind));
}

Template make_template(const Node& node) {
  if (node.is_null()) return {std::nullopt};
  const std::string kind = node.kind();
  if (kind == "ByteLevel") return {std::nullopt};  // moves offsets only
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

namespace shunt {

std::string StreamDecoder::push(int32_t id) {
  if (skip_special_ && tokenizer_.is_special(id)) return "";
  return assembler_.push(tokenizer_.token_bytes(id));
}

}  // namespace shunt
