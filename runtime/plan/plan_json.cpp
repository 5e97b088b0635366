// Writing plan.json: one buffer, kernel or step a line, so that two plans can be compared with
// diff. Entry point to_json(); tested by tests/runtime/plan/plan_json_test.cpp.
#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "ir/error.h"
#include "runtime/plan/plan_fields.h"

namespace shunt {

namespace {

using namespace plan_fields;

/// A size expression that is just a number is written as one.
bool is_plain_number(std::string_view text) {
  const std::string_view digits = text.substr(text.starts_with('-') ? 1 : 0);
  if (digits.empty() || digits.size() > 17 || text == "-0") return false;
  if (digits.size() > 1 && digits[0] == '0') return false;
  return digits.find_first_not_of("0123456789") == std::string_view::npos;
}

class Writer {
 public:
  std::string take() { return std::move(out_); }

  template <class T>
  void operator()(const char* key, const T& value) {
    if (!first_) out_ += top_ ? ",\n" : ", ";
    first_ = false;
    out_ += fmt::format("\"{}\": ", key);
    put(value);
  }
  void step_kind(StepKind& what) {
    std::string kind(kStepKindNames[what.index()]);
    (*this)("kind", kind);
    std::visit([this](auto& alternative) { describe(*this, alternative); }, what);
  }
  void put_top(const Plan& plan) {
    top_ = first_ = true;
    out_ += "{\n";
    describe(*this,
             const_cast<Plan&>(plan));  // describe() serves reading too; a Writer changes nothing
    out_ += "\n}\n";
  }

 private:
  void put(bool value) { out_ += value ? "true" : "false"; }
  void put(int value) { out_ += std::to_string(value); }
  void put(int64_t value) { out_ += std::to_string(value); }
  void put(const std::string& text) {
    out_ += '"';
    for (const char c : text) {
      if (c == '"' || c == '\\') {
        out_ += '\\';
        out_ += c;
      } else if (static_cast<unsigned char>(c) < 0x20) {
        out_ += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
      } else {
        out_ += c;
      }
    }
    out_ += '"';
  }
  template <class F>
  void put_real(
      F value) {  // the shortest text that reads back as the same number, marked as not an integer
    SHUNT_CHECK(std::isfinite(value), "a plan cannot hold the number {}", value);
    std::string text = fmt::format("{}", value);
    if (text.find_first_of(".e") == std::string::npos) text += ".0";
    out_ += text;
  }
  void put(double value) { put_real(value); }
  void put(float value) { put_real(value); }
  void put(const DimExpr& expr) {
    const std::string text = expr.to_string();
    if (is_plain_number(text)) {
      out_ += text;
    } else {
      put(text);
    }
  }
  void put(const Type& type) { put(type.to_string()); }
  void put(DType dtype) { put(std::string(dtype_name(dtype))); }
  void put(Collective::Kind kind) { put(std::string(kCollectiveNames[static_cast<size_t>(kind)])); }
  void put(MeshAxis axis) { put(std::string(axis_name(axis))); }
  void put(Arena arena) { put(std::string(kArenaNames[static_cast<size_t>(arena)])); }
  void put(StateKind kind) { put(std::string(kStateKindNames[static_cast<size_t>(kind)])); }
  void put(const Arg& arg) {
    switch (arg.kind) {
      case Arg::Kind::null: out_ += "null"; return;
      case Arg::Kind::buffer:
        out_ += fmt::format("{{\"buffer\": {}, \"offset\": {}}}", arg.index, arg.offset);
        return;
      case Arg::Kind::state: out_ += fmt::format("{{\"state\": {}}}", arg.index); return;
      case Arg::Kind::dim_ptr: out_ += fmt::format("{{\"dim_ptr\": {}}}", arg.index); return;
      case Arg::Kind::i32: return put_keyed("i32", arg.dim);
      case Arg::Kind::i64: return put_keyed("i64", arg.dim);
      case Arg::Kind::f32: return put_keyed("f32", arg.number);
      case Arg::Kind::rank: return put_keyed("rank", arg.index);
      case Arg::Kind::peers:
        out_ += fmt::format("{{\"peers\": {}, \"over\": \"{}\"}}", arg.index, axis_name(arg.over));
        return;
      case Arg::Kind::expr: return put_keyed("expr", arg.text);
    }
  }
  template <class T>
  void put_keyed(const char* key, const T& value) {
    out_ += fmt::format("{{\"{}\": ", key);
    put(value);
    out_ += '}';
  }
  template <class T>
  void put(const T& value) {
    const bool top = std::exchange(top_, false);
    if constexpr (IsSequence<T>::value) {
      using Item = typename T::value_type;
      const char* separator = kOneALine<Item> ? "\n" : "";
      out_ += '[';
      for (const Item& item : value) {
        out_ += separator;
        put(item);
        separator = kOneALine<Item> ? ",\n" : ", ";
      }
      out_ += kOneALine<Item> && !value.empty() ? "\n]" : "]";
    } else if constexpr (IsOptional<T>::value) {
      value ? put(*value) : void(out_ += "null");
    } else {
      out_ += '{';
      first_ = true;
      describe(*this, const_cast<T&>(value));
      out_ += '}';
    }
    first_ = false;
    top_ = top;
  }

  std::string out_;
  bool first_ = true;
  bool top_ = false;  // keys of the plan itself: one a line
};

}  // namespace

std::string to_json(const Plan& plan) {
  Writer writer;
  writer.put_top(plan);
  return writer.take();
}

}  // namespace shunt
