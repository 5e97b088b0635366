// Expr -> postfix of vector loops. Entry points: HostExpr::compile, HostExpr::evaluate.
// Tests: tests/runtime/host/host_expr_test.cpp.
#include "runtime/host/host_expr.h"

#include <charconv>
#include <cstring>

#include "ir/error.h"

namespace shunt {
namespace {

using host::Binary;
using host::Unary;

/// Place of a variable, or -1 if there is none of that name.
int place_of(std::string_view name) {
  if (name == "acc" || name == "gate") return 0;
  if (name == "up") return 1;
  if (name.size() < 2 || name[0] != 'x') return -1;
  int number = -1;
  const auto [end, error] = std::from_chars(name.data() + 1, name.data() + name.size(), number);
  const bool valid = error == std::errc() && end == name.data() + name.size() && number >= 0 &&
                     number < kMaxHostOperands;
  return valid ? HostExpr::kExtras + number : -1;
}

Unary unary_of(Expr::Code code) {
  switch (code) {
    case Expr::Code::neg: return Unary::neg;
    case Expr::Code::silu: return Unary::silu;
    case Expr::Code::gelu: return Unary::gelu;
    case Expr::Code::gelu_tanh: return Unary::gelu_tanh;
    case Expr::Code::quick_gelu: return Unary::quick_gelu;
    case Expr::Code::relu: return Unary::relu;
    case Expr::Code::sigmoid: return Unary::sigmoid;
    case Expr::Code::softplus: return Unary::softplus;
    case Expr::Code::tanh: return Unary::tanh;
    case Expr::Code::exp: return Unary::exp;
    case Expr::Code::sqrt: return Unary::sqrt;
    case Expr::Code::rsqrt: return Unary::rsqrt;
    case Expr::Code::abs: return Unary::abs;
    default: internal_error(__FILE__, __LINE__, "not a function of one number");
  }
}

Binary binary_of(Expr::Code code) {
  switch (code) {
    case Expr::Code::add: return Binary::add;
    case Expr::Code::sub: return Binary::sub;
    case Expr::Code::mul: return Binary::mul;
    case Expr::Code::div: return Binary::div;
    case Expr::Code::min: return Binary::min;
    case Expr::Code::max: return Binary::max;
    default: internal_error(__FILE__, __LINE__, "not a function of two numbers");
  }
}

HostExpr::Form form_of(const std::string& canonical) {
  if (canonical == "acc") return HostExpr::Form::identity;
  if (canonical == "acc + x0" || canonical == "x0 + acc") return HostExpr::Form::acc_plus_x0;
  if (canonical == "silu(gate) * up") return HostExpr::Form::silu_gate_times_up;
  return HostExpr::Form::general;
}

}  // namespace

bool HostExpr::supports(const Expr& expr) {
  if (expr.empty() || expr.stack_depth() > kMaxDepth) return false;
  for (const std::string& name : expr.variables()) {
    if (place_of(name) < 0) return false;
  }
  return true;
}

HostExpr HostExpr::compile(std::string_view text) { return compile(Expr::parse(text)); }

HostExpr HostExpr::compile(const Expr& expr) {
  if (!supports(expr)) {
    plan_error(
        "expression '{}' is not one that a host kernel computes: its variables must be acc, gate, "
        "up or "
        "x0..x{}, and it may hold {} values at once",
        expr.to_string(), kMaxHostOperands - 1, kMaxDepth);
  }
  HostExpr out;
  out.form_ = form_of(expr.to_string());
  for (const Expr::Node& node : expr.nodes()) {
    if (node.code == Expr::Code::variable) {
      const int place = place_of(expr.variables()[static_cast<size_t>(node.variable)]);
      out.used_ |= 1u << place;
      out.nodes_.push_back({Kind::input, static_cast<uint8_t>(place)});
    } else if (node.code == Expr::Code::constant) {
      const int block = static_cast<int>(out.constants_.size() / kBlock);
      out.constants_.insert(out.constants_.end(), kBlock, node.value);
      out.nodes_.push_back({Kind::constant, 0, block});
    } else if (Expr::arity(node.code) == 1) {
      out.nodes_.push_back({Kind::unary, static_cast<uint8_t>(unary_of(node.code))});
    } else if (Expr::arity(node.code) == 2) {
      out.nodes_.push_back({Kind::binary, static_cast<uint8_t>(binary_of(node.code))});
    } else {
      out.nodes_.push_back({Kind::clamp});
    }
  }
  return out;
}

void HostExpr::evaluate(const float* const* inputs, int n, float* out) const {
  if (n == 0) return;
  const host::Simd& v = host::simd();
  alignas(64) float blocks[kMaxDepth][kBlock];
  const float* stack[kMaxDepth];  // an operand in place, or the block of its depth
  int top = 0;
  for (const Node& node : nodes_) {
    switch (node.kind) {
      case Kind::input: stack[top++] = inputs[node.index]; break;
      case Kind::constant:
        stack[top++] = constants_.data() + static_cast<ptrdiff_t>(node.block) * kBlock;
        break;
      case Kind::unary: {
        float* to = blocks[top - 1];
        v.unary[node.index](to, stack[top - 1], n);
        stack[top - 1] = to;
        break;
      }
      case Kind::binary: {
        --top;
        float* to = blocks[top - 1];
        v.binary[node.index](to, stack[top - 1], stack[top], n);
        stack[top - 1] = to;
        break;
      }
      case Kind::clamp: {
        top -= 2;
        float* to = blocks[top - 1];
        v.binary[static_cast<int>(Binary::max)](to, stack[top - 1], stack[top], n);
        v.binary[static_cast<int>(Binary::min)](to, to, stack[top + 1], n);
        stack[top - 1] = to;
        break;
      }
    }
  }
  std::memmove(out, stack[0], static_cast<size_t>(n) * sizeof(float));
}

}  // namespace shunt
