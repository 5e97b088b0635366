// Typed access to tokenizer.json. Entry point: Node. Tested by tests/runtime/tokenizer_test.cpp.
#include "runtime/engine/tokenizer_json.h"

#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::tokenizer {

namespace {
const nlohmann::json kNull;
}  // namespace

Node Node::get(std::string_view key) const {
  if (!value_->is_object()) fail("must be an object");
  std::string path = path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
  const auto it = value_->find(std::string(key));
  return Node(it == value_->end() ? kNull : *it, *file_, std::move(path));
}

std::vector<Node> Node::items() const {
  if (!value_->is_array()) fail("must be a list");
  std::vector<Node> nodes;
  nodes.reserve(value_->size());
  for (size_t i = 0; i < value_->size(); ++i) {
    nodes.emplace_back((*value_)[i], *file_, fmt::format("{}[{}]", path_, i));
  }
  return nodes;
}

std::string Node::string() const {
  if (!value_->is_string()) fail("must be a string");
  return value_->get<std::string>();
}

bool Node::boolean() const {
  if (!value_->is_boolean()) fail("must be true or false");
  return value_->get<bool>();
}

double Node::number() const {
  if (!value_->is_number()) fail("must be a number");
  return value_->get<double>();
}

size_t Node::count() const {
  if (!value_->is_number_unsigned() || value_->get<uint64_t>() > kMaxCount) {
    fail("must be a whole number from 0 to {}", kMaxCount);
  }
  return value_->get<size_t>();
}

char32_t Node::character() const {
  const std::string text = string();
  if (text.empty() || utf8_step(text).length != text.size()) fail("must be one character");
  return utf8_step(text).code;
}

int32_t Node::id() const {
  if (!value_->is_number_unsigned() || value_->get<uint64_t>() > static_cast<uint64_t>(kMaxId)) {
    fail("must be a token id from 0 to {}", kMaxId);
  }
  return value_->get<int32_t>();
}

std::string Node::where() const {
  return path_.empty() ? *file_ : fmt::format("{}: {}", *file_, path_);
}

void Node::unsupported(std::string_view what) const {
  user_error(
      "{}: {} is not supported; encode the text with the model's own tokenizer and pass the ids "
      "(--ids)",
      where(), what);
}

void Node::fail_text(const std::string& what) const {
  user_error("{}: {}; repair the file or fetch it again", where(), what);
}

}  // namespace shunt::tokenizer
