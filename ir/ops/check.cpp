// Rule C0 and the helpers of ir/ops/check.h. Tested through every tests/ir/ops/*.mir.
#include "ir/ops/check.h"

#include <algorithm>
#include <vector>

namespace shunt::ir {

namespace {

std::string join(std::initializer_list<std::string_view> signature) {
  std::string text;
  for (std::string_view word : signature) text += (text.empty() ? "" : ", ") + std::string(word);
  return text.empty() ? "none" : text;
}

void check_operand(const Op& op, std::string_view word, const Value* value) {
  const bool optional = word.back() == '?';
  if (value == nullptr) {
    SHUNT_RULE(0, optional, "operand {} is none", word);
    return;
  }
  SHUNT_RULE(0, (word[0] == '@') == value->is_state(), "operand {} is {}, {}", word, value->name,
             value->is_state() ? "a state" : "which is not a state");
  if (value->is_state()) {
    const StateKind wanted = word.back() == '#' ? StateKind::slot : StateKind::paged;
    SHUNT_RULE(0, value->state_kind() == wanted, "operand {} is {}, which is {}", word, value->name,
               wanted == StateKind::slot ? "paged" : "a slot state");
  }
  SHUNT_RULE(0, word[0] != '=' || value->is_param(), "operand {} is {}, which is not a parameter",
             word, value->name);
  SHUNT_RULE(0, has_elements(value->type), "operand {} : {} has more than one symbolic size", word,
             str(value->type));
}

}  // namespace

void fail_rule(const Op& op, int number, const std::string& what) {
  user_error("{} (C{}): {}", op.info().name, number, what);
}

void check_operands(const Op& op, std::initializer_list<std::string_view> signature) {
  const std::vector<std::string_view> words(signature);
  const bool variadic = !words.empty() && words.back().back() == '*';
  const size_t most = words.size() - (variadic ? 1 : 0);
  size_t least = most;
  while (!variadic && least > 0 && words[least - 1].back() == '?') --least;
  const size_t n = op.operands.size();
  SHUNT_RULE(0, n >= least && (variadic || n <= most), "{} operands, expected {}", n,
             join(signature));
  for (size_t i = 0; i < n; ++i)
    check_operand(op, words[std::min(i, words.size() - 1)], op.operands[i]);
}

void check_positions(const Op& op, int number, size_t i, const Dim& tokens) {
  const Type& t = type_of(op, i);
  SHUNT_RULE(number, is_i32(t, 1) && t.shape[0] == tokens, "positions {} are not i32[{}]", str(t),
             str(tokens));
}

Expr check_expr(const Op& op, int number, std::string_view what, const std::string& text,
                std::initializer_list<std::string_view> names, size_t first_extra) {
  Expr expr;
  try {
    expr = Expr::parse(text);
  } catch (const UserError& error) {
    fail_rule(op, number, fmt::format("{}: {}", what, error.what()));
  }
  const auto& used = expr.variables();
  const size_t extras = op.operands.size() - first_extra;
  for (size_t i = 0; i < extras; ++i) {
    const std::string name = fmt::format("x{}", i);
    SHUNT_RULE(number, std::find(used.begin(), used.end(), name) != used.end(),
               "{} \"{}\" does not use operand {}", what, text, name);
  }
  for (const std::string& name : used) {
    bool known = std::find(names.begin(), names.end(), name) != names.end();
    for (size_t i = 0; i < extras && !known; ++i) known = name == fmt::format("x{}", i);
    SHUNT_RULE(number, known, "{} \"{}\" uses {}, which is none of {}{} extra operands x0..", what,
               text, name, names.size() == 0 ? "" : join(names) + " and the ", extras);
  }
  return expr;
}

bool has_elements(const Type& t) {
  return std::count_if(t.shape.begin(), t.shape.end(),
                       [](const Dim& d) { return !d.is_constant(); }) <= 1;
}

Dim operand_bytes(const Op& op, size_t i) { return has(op, i) ? type_of(op, i).bytes() : Dim(0); }

Dim io_bytes(const Op& op) {
  Dim bytes = 0;
  for (size_t i = 0; i < op.operands.size(); ++i) {
    if (has(op, i) && !op.operands[i]->is_state()) bytes = bytes + operand_bytes(op, i);
  }
  for (const auto& result : op.results) bytes = bytes + result->type.bytes();
  return bytes;
}

}  // namespace shunt::ir
