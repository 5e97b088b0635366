// Parsing, printing and evaluating Expr. Tested by tests/ir/expr_test.cpp.
#include "ir/expr.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "ir/error.h"

namespace shunt {

namespace {

using Code = Expr::Code;

struct Function {
  std::string_view name;
  Code code;
};
constexpr Function kFunctions[] = {
    {"silu", Code::silu},
    {"gelu", Code::gelu},
    {"gelu_tanh", Code::gelu_tanh},
    {"quick_gelu", Code::quick_gelu},
    {"relu", Code::relu},
    {"sigmoid", Code::sigmoid},
    {"softplus", Code::softplus},
    {"tanh", Code::tanh},
    {"exp", Code::exp},
    {"sqrt", Code::sqrt},
    {"rsqrt", Code::rsqrt},
    {"abs", Code::abs},
    {"min", Code::min},
    {"max", Code::max},
    {"clamp", Code::clamp},
};

std::string_view function_name(Code code) {
  for (const Function& f : kFunctions) {
    if (f.code == code) return f.name;
  }
  return {};
}

constexpr size_t kMaxNodes = 4096;
constexpr int kMaxDepth = 64;

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

/// The shortest decimal that reads back as the same float.
std::string float_text(float value) {
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  return std::string(buffer, end);
}

}  // namespace

struct Expr::Parser {
  std::string_view text;
  Expr& out;
  size_t i = 0;
  int depth = 0;

  [[noreturn]] void fail(std::string_view expected) const {
    user_error("expression '{}', column {}: expected {}", text.substr(0, 200), i + 1, expected);
  }
  char peek() {
    while (i < text.size() && text[i] == ' ') ++i;
    return i < text.size() ? text[i] : '\0';
  }
  bool eat(char c) {
    if (peek() != c) return false;
    ++i;
    return true;
  }
  void push(Node node) {
    if (out.nodes_.size() >= kMaxNodes) fail("a shorter expression");
    out.nodes_.push_back(node);
  }
  void sum() {
    if (++depth > kMaxDepth) fail("less nesting");
    product();
    for (char c = peek(); c == '+' || c == '-'; c = peek()) {
      ++i;
      product();
      push({c == '+' ? Code::add : Code::sub});
    }
    --depth;
  }
  void product() {
    unary();
    for (char c = peek(); c == '*' || c == '/'; c = peek()) {
      ++i;
      unary();
      push({c == '*' ? Code::mul : Code::div});
    }
  }
  void unary() {
    if (!eat('-')) return atom();
    if (++depth > kMaxDepth) fail("less nesting");
    unary();
    --depth;
    push({Code::neg});
  }
  void number() {
    float value = 0;
    const auto [end, error] = std::from_chars(text.data() + i, text.data() + text.size(), value);
    if (error != std::errc()) fail("a number");
    i = end - text.data();
    push({Code::constant, value});
  }
  void atom() {
    const char c = peek();
    if (eat('(')) {
      sum();
      if (!eat(')')) fail("')'");
      return;
    }
    if (std::isdigit(static_cast<unsigned char>(c)) || c == '.') return number();
    const size_t start = i;
    while (i < text.size() && is_word(text[i])) ++i;
    const std::string_view word = text.substr(start, i - start);
    if (word.empty()) fail("a number, a variable or '('");
    if (!eat('(')) return variable(word);
    for (const Function& f : kFunctions) {
      if (f.name == word) return call(f.code);
    }
    i = start;
    fail("a known function");
  }
  void variable(std::string_view name) {
    auto& names = out.variables_;
    const auto it = std::find(names.begin(), names.end(), name);
    const int index = static_cast<int>(it - names.begin());
    if (it == names.end()) names.emplace_back(name);
    push({Code::variable, 0, index});
  }
  void call(Code code) {
    for (int a = 0; a < arity(code); ++a) {
      if (a != 0 && !eat(',')) fail("','");
      sum();
    }
    if (!eat(')')) fail("')'");
    push({code});
  }
};

int Expr::arity(Code code) {
  switch (code) {
    case Code::constant:
    case Code::variable: return 0;
    case Code::add:
    case Code::sub:
    case Code::mul:
    case Code::div:
    case Code::min:
    case Code::max: return 2;
    case Code::clamp: return 3;
    default: return 1;
  }
}

Expr Expr::parse(std::string_view text) {
  Expr e;
  Parser parser{text, e};
  parser.sum();
  if (parser.peek() != '\0' || parser.i < text.size()) parser.fail("the end");
  return e;
}

namespace {

/// Text of one subexpression and how tightly it binds: 1 sum, 2 product, 3 atom.
struct Piece {
  std::string text;
  int level;
};

std::string wrap(const Piece& p, int level) {
  return p.level < level ? "(" + p.text + ")" : p.text;
}

/// Folds postfix nodes into text; `leaf` prints constants and variables, `call` a function's name.
template <class Leaf, class Call>
std::string render(std::span<const Expr::Node> nodes, Leaf&& leaf, Call&& call) {
  std::vector<Piece> stack;
  const auto pop = [&] {
    Piece p = std::move(stack.back());
    stack.pop_back();
    return p;
  };
  for (const Expr::Node& node : nodes) {
    switch (node.code) {
      case Code::constant:
      case Code::variable: stack.push_back({leaf(node), 3}); break;
      case Code::add:
      case Code::sub: {
        const Piece b = pop(), a = pop();
        const bool add = node.code == Code::add;
        stack.push_back({wrap(a, 1) + (add ? " + " : " - ") + wrap(b, 2), 1});
        break;
      }
      case Code::mul:
      case Code::div: {
        const Piece b = pop(), a = pop();
        const bool mul = node.code == Code::mul;
        stack.push_back({wrap(a, 2) + (mul ? " * " : " / ") + wrap(b, 3), 2});
        break;
      }
      case Code::neg: stack.push_back({"-" + wrap(pop(), 3), 2}); break;
      default: {
        std::string arguments;
        const int n = Expr::arity(node.code);
        for (int i = 0; i < n; ++i) {
          const Piece p = pop();
          arguments = arguments.empty() ? p.text : p.text + ", " + arguments;
        }
        stack.push_back({call(node.code) + "(" + arguments + ")", 3});
      }
    }
  }
  return stack.empty() ? "" : stack.back().text;
}

}  // namespace

std::string Expr::to_string() const {
  return render(
      nodes_,
      [&](const Node& n) {
        return n.code == Code::variable ? variables_[n.variable] : float_text(n.value);
      },
      [](Code code) { return std::string(function_name(code)); });
}

std::string Expr::to_cuda(std::span<const std::string> names) const {
  return render(
      nodes_,
      [&](const Node& n) {
        if (n.code == Code::variable) return names[n.variable];
        std::string text = float_text(n.value);
        if (text.find_first_of(".e") == std::string::npos) text += ".0";
        return text + "f";
      },
      [](Code code) { return "shunt::" + std::string(function_name(code)); });
}

int Expr::stack_depth() const {
  int depth = 0, most = 0;
  for (const Node& node : nodes_) {
    depth += 1 - arity(node.code);
    most = std::max(most, depth);
  }
  return most;
}

float apply_unary(Expr::Code code, float x) {
  switch (code) {
    case Code::neg: return -x;
    case Code::silu: return x / (1.0f + std::exp(-x));
    case Code::gelu: return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752440f));
    case Code::gelu_tanh:
      return 0.5f * x * (1.0f + std::tanh(0.79788456080286535588f * (x + 0.044715f * x * x * x)));
    case Code::quick_gelu: return x / (1.0f + std::exp(-1.702f * x));
    case Code::relu: return x > 0 ? x : 0.0f;
    case Code::sigmoid: return 1.0f / (1.0f + std::exp(-x));
    case Code::softplus: return std::max(x, 0.0f) + std::log1p(std::exp(-std::fabs(x)));
    case Code::tanh: return std::tanh(x);
    case Code::exp: return std::exp(x);
    case Code::sqrt: return std::sqrt(x);
    case Code::rsqrt: return 1.0f / std::sqrt(x);
    case Code::abs: return std::fabs(x);
    default: internal_error(__FILE__, __LINE__, "not a function of one number");
  }
}

float Expr::evaluate(std::span<const float> values) const {
  std::array<float, kMaxNodes> stack;
  int top = 0;
  for (const Node& node : nodes_) {
    switch (node.code) {
      case Code::constant: stack[top++] = node.value; break;
      case Code::variable: stack[top++] = values[node.variable]; break;
      case Code::add:
        --top;
        stack[top - 1] += stack[top];
        break;
      case Code::sub:
        --top;
        stack[top - 1] -= stack[top];
        break;
      case Code::mul:
        --top;
        stack[top - 1] *= stack[top];
        break;
      case Code::div:
        --top;
        stack[top - 1] /= stack[top];
        break;
      case Code::min:
        --top;
        stack[top - 1] = std::fmin(stack[top - 1], stack[top]);
        break;
      case Code::max:
        --top;
        stack[top - 1] = std::fmax(stack[top - 1], stack[top]);
        break;
      case Code::clamp:
        top -= 2;
        stack[top - 1] = std::fmin(std::fmax(stack[top - 1], stack[top]), stack[top + 1]);
        break;
      default: stack[top - 1] = apply_unary(node.code, stack[top - 1]);
    }
  }
  return stack[0];
}

Expr Expr::substitute(std::string_view variable, const Expr& by) const {
  return parse(render(
      nodes_,
      [&](const Node& n) {
        if (n.code != Code::variable) return float_text(n.value);
        return variables_[n.variable] == variable ? "(" + by.to_string() + ")"
                                                  : variables_[n.variable];
      },
      [](Code code) { return std::string(function_name(code)); }));
}

Expr Expr::rename(const std::vector<std::pair<std::string, std::string>>& renames) const {
  return parse(render(
      nodes_,
      [&](const Node& n) {
        if (n.code != Code::variable) return float_text(n.value);
        for (const auto& [from, to] : renames) {
          if (from == variables_[n.variable]) return to;
        }
        return variables_[n.variable];
      },
      [](Code code) { return std::string(function_name(code)); }));
}

}  // namespace shunt
