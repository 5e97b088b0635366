// Arithmetic, printing and parsing of symbolic sizes. Tested by tests/ir/dim_test.cpp.
#include "ir/dim.h"

#include <algorithm>
#include <cctype>

#include "ir/error.h"

namespace shunt {

namespace {

int64_t checked_add(int64_t a, int64_t b) {
  int64_t r = 0;
  SHUNT_CHECK(!__builtin_add_overflow(a, b, &r), "size overflow: {} + {}", a, b);
  return r;
}

int64_t checked_mul(int64_t a, int64_t b) {
  int64_t r = 0;
  SHUNT_CHECK(!__builtin_mul_overflow(a, b, &r), "size overflow: {} * {}", a, b);
  return r;
}

}  // namespace

Dim Dim::symbol(std::string name) {
  Dim d;
  d.terms_[std::move(name)] = 1;
  return d;
}

int64_t Dim::constant() const {
  SHUNT_CHECK(is_constant(), "size {} is symbolic where a number is needed", to_string());
  return constant_;
}

int64_t Dim::evaluate(const DimEnv& env) const {
  int64_t sum = constant_;
  for (const auto& [name, factor] : terms_) {
    const auto it = env.find(name);
    SHUNT_CHECK(it != env.end(), "dim {} has no value", name);
    sum = checked_add(sum, checked_mul(factor, it->second));
  }
  return sum;
}

bool Dim::is_multiple_of(const Dim& other, int64_t* factor) const {
  int64_t k = 0;
  if (!other.terms_.empty()) {
    const auto& [name, f] = *other.terms_.begin();
    const auto it = terms_.find(name);
    if (it == terms_.end() || it->second % f != 0) return false;
    k = it->second / f;
  } else {
    if (other.constant_ == 0 || constant_ % other.constant_ != 0) return false;
    k = constant_ / other.constant_;
  }
  if (k < 1 || !(other * Dim(k) == *this)) return false;
  *factor = k;
  return true;
}

bool Dim::divisible_by(int64_t divisor) const {
  return constant_ % divisor == 0 && std::all_of(terms_.begin(), terms_.end(),
                                                 [&](auto& t) { return t.second % divisor == 0; });
}

Dim Dim::divided_by(int64_t divisor) const {
  SHUNT_CHECK(divisible_by(divisor), "size {} is not divisible by {}", to_string(), divisor);
  Dim d = *this;
  for (auto& [name, factor] : d.terms_) factor /= divisor;
  d.constant_ /= divisor;
  return d;
}

Dim Dim::operator+(const Dim& other) const {
  Dim d = *this;
  for (const auto& [name, factor] : other.terms_) {
    int64_t& mine = d.terms_[name];
    mine = checked_add(mine, factor);
    if (mine == 0) d.terms_.erase(name);
  }
  d.constant_ = checked_add(d.constant_, other.constant_);
  return d;
}

Dim Dim::operator-(const Dim& other) const { return *this + other * Dim(-1); }

Dim Dim::operator*(const Dim& other) const {
  SHUNT_CHECK(is_constant() || other.is_constant(), "product of two symbolic sizes: ({})*({})",
              to_string(), other.to_string());
  const Dim& symbolic = is_constant() ? other : *this;
  const int64_t k = is_constant() ? constant_ : other.constant_;
  if (k == 0) return Dim(0);
  Dim d = symbolic;
  for (auto& [name, factor] : d.terms_) factor = checked_mul(factor, k);
  d.constant_ = checked_mul(d.constant_, k);
  return d;
}

std::string Dim::to_string() const {
  std::string text;
  for (const auto& [name, factor] : terms_) {
    if (!text.empty() && factor > 0) text += '+';
    if (factor == -1) {
      text += '-';
    } else if (factor != 1) {
      text += fmt::format("{}*", factor);
    }
    text += name;
  }
  if (constant_ != 0 || text.empty()) {
    if (!text.empty() && constant_ > 0) text += '+';
    text += std::to_string(constant_);
  }
  return text;
}

Dim Dim::parse(std::string_view text) {
  Dim sum;
  size_t i = 0;
  const auto fail = [&]() { user_error("'{}' is not a size (expected a sum like 8*T+16)", text); };
  while (i < text.size()) {
    int64_t sign = 1;
    if (text[i] == '+' || text[i] == '-') {
      sign = text[i] == '-' ? -1 : 1;
      ++i;
    } else if (i != 0) {
      fail();
    }
    int64_t factor = 1;
    bool have_number = false;
    const size_t start = i;
    while (i < text.size() && std::isdigit(static_cast<unsigned char>(text[i]))) ++i;
    if (i > start) {
      if (i - start > 18) fail();
      factor = std::stoll(std::string(text.substr(start, i - start)));
      have_number = true;
    }
    const bool star = have_number && i < text.size() && text[i] == '*';
    if (star) ++i;
    const size_t name = i;
    while (i < text.size() &&
           (std::isalnum(static_cast<unsigned char>(text[i])) || text[i] == '_')) {
      ++i;
    }
    if (i > name) {
      if (have_number && !star) fail();
      sum = sum + Dim::symbol(std::string(text.substr(name, i - name))) * Dim(sign * factor);
    } else {
      if (star || !have_number) fail();
      sum = sum + Dim(sign * factor);
    }
  }
  if (text.empty()) fail();
  return sum;
}

// --- DimExpr
// -------------------------------------------------------------------------------------------------

/// Recursive descent over the grammar in the header. Depth is bounded, since plan.json is outside
/// data.
struct DimExpr::Parser {
  std::string_view text;
  DimExpr& out;
  size_t i = 0;
  int depth = 0;

  [[noreturn]] void fail() const {
    user_error("'{}' is not a size expression (at column {})", text, i + 1);
  }
  bool eat(char c) {
    if (i >= text.size() || text[i] != c) return false;
    ++i;
    return true;
  }
  void push(Code code, int64_t value = 0, std::string name = {}) {
    out.postfix_.push_back({code, value, std::move(name)});
  }
  void sum() {
    if (++depth > 64) fail();
    product();
    while (i < text.size() && (text[i] == '+' || text[i] == '-')) {
      const Code code = text[i++] == '+' ? Code::add : Code::sub;
      product();
      push(code);
    }
    --depth;
  }
  void product() {
    atom();
    while (eat('*')) {
      atom();
      push(Code::mul);
    }
  }
  void call(Code code) {
    if (!eat('(')) fail();
    sum();
    if (!eat(',')) fail();
    sum();
    if (!eat(')')) fail();
    push(code);
  }
  void atom() {
    if (eat('(')) {
      sum();
      if (!eat(')')) fail();
      return;
    }
    const size_t start = i;
    if (i < text.size() && (text[i] == '-' || std::isdigit(static_cast<unsigned char>(text[i])))) {
      ++i;
      while (i < text.size() && std::isdigit(static_cast<unsigned char>(text[i]))) ++i;
      const std::string digits(text.substr(start, i - start));
      if (digits == "-" || digits.size() > 18) fail();
      return push(Code::constant, std::stoll(digits));
    }
    while (i < text.size() &&
           (std::isalnum(static_cast<unsigned char>(text[i])) || text[i] == '_')) {
      ++i;
    }
    const std::string word(text.substr(start, i - start));
    if (word.empty()) fail();
    if (word == "ceildiv") return call(Code::ceildiv);
    if (word == "min") return call(Code::min);
    if (word == "max") return call(Code::max);
    push(Code::symbol, -1, word);
  }
};

DimExpr DimExpr::from_text(std::string text) {
  DimExpr e{Dim(0)};
  e.text_ = std::move(text);
  e.postfix_.clear();
  Parser parser{e.text_, e};
  parser.sum();
  if (parser.i != e.text_.size()) parser.fail();
  return e;
}

DimExpr::DimExpr(const Dim& dim) : text_(dim.to_string()) {
  Dim constant = dim;
  for (const auto& [name, factor] : dim.terms())
    constant = constant - Dim::symbol(name) * Dim(factor);
  postfix_.push_back({Code::constant, constant.constant(), {}});
  for (const auto& [name, factor] : dim.terms()) {
    postfix_.push_back({Code::constant, factor, {}});
    postfix_.push_back({Code::symbol, -1, name});
    postfix_.push_back({Code::mul, 0, {}});
    postfix_.push_back({Code::add, 0, {}});
  }
}

DimExpr DimExpr::ceildiv(const DimExpr& a, const DimExpr& b) {
  return from_text(fmt::format("ceildiv({},{})", a.text_, b.text_));
}
DimExpr DimExpr::min(const DimExpr& a, const DimExpr& b) {
  return from_text(fmt::format("min({},{})", a.text_, b.text_));
}
DimExpr DimExpr::max(const DimExpr& a, const DimExpr& b) {
  return from_text(fmt::format("max({},{})", a.text_, b.text_));
}
DimExpr DimExpr::operator*(const DimExpr& other) const {
  return from_text(fmt::format("({})*({})", text_, other.text_));
}
DimExpr DimExpr::operator+(const DimExpr& other) const {
  return from_text(fmt::format("{}+{}", text_, other.text_));
}
DimExpr DimExpr::parse(std::string_view text) { return from_text(std::string(text)); }

template <class Lookup>
int64_t DimExpr::run(Lookup&& lookup) const {
  int64_t stack[128];
  int top = 0;
  for (const Node& node : postfix_) {
    if (node.code == Code::constant || node.code == Code::symbol) {
      SHUNT_CHECK(top < 128, "size expression {} is too deep", text_);
      stack[top++] = node.code == Code::constant ? node.value : lookup(node);
      continue;
    }
    const int64_t b = stack[--top];
    int64_t& a = stack[top - 1];
    switch (node.code) {
      case Code::add: a = checked_add(a, b); break;
      case Code::sub: a = checked_add(a, -b); break;
      case Code::mul: a = checked_mul(a, b); break;
      case Code::min: a = std::min(a, b); break;
      case Code::max: a = std::max(a, b); break;
      case Code::ceildiv:
        SHUNT_CHECK(b > 0, "division by {} in {}", b, text_);
        a = a > 0 ? checked_add(a, b - 1) / b : 0;
        break;
      case Code::constant:
      case Code::symbol: break;
    }
  }
  return stack[0];
}

int64_t DimExpr::evaluate(const DimEnv& env) const {
  return run([&](const Node& node) {
    const auto it = env.find(node.name);
    SHUNT_CHECK(it != env.end(), "dim {} has no value in {}", node.name, text_);
    return it->second;
  });
}

int64_t DimExpr::evaluate(const int64_t* values) const {
  return run([&](const Node& node) { return values[node.value]; });
}

void DimExpr::bind(const std::vector<DimDecl>& decls) {
  for (Node& node : postfix_) {
    if (node.code != Code::symbol) continue;
    const auto it =
        std::find_if(decls.begin(), decls.end(), [&](auto& d) { return d.name == node.name; });
    if (it == decls.end())
      user_error("size expression '{}' uses '{}', which is not declared", text_, node.name);
    node.value = it - decls.begin();
  }
}

}  // namespace shunt
