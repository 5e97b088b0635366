// plan.json, both ways: to_json() and plan_from_json(). Each struct lists its keys once, in
// describe(); a Writer and a Reader walk that list. The file has one buffer, kernel or step a line,
// so that two plans can be compared with diff. Tested by tests/runtime/plan/plan_json_test.cpp and
// fuzzed by tests/fuzz/fuzz_plan.cpp.
#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "ir/error.h"
#include "runtime/plan/plan.h"

namespace shunt {

namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 16;          // plan.programs[].steps[].args[] needs 7
constexpr size_t kMaxExprText = 2048;  // of one size expression or type

// ---- the keys of every struct, in file order
// -----------------------------------------------------------------

template <class V>
void describe(V& v, DimDecl& d) {
  v("name", d.name);
  v("min", d.min);
  v("max", d.max);
}
template <class V>
void describe(V& v, PlanFile& f) {
  v("name", f.name);
  v("size", f.size);
  v("header_digest", f.header_digest);
}
template <class V>
void describe(V& v, Buffer& b) {
  v("name", b.name);
  v("arena", b.arena);
  v("offset", b.offset);
  v("bytes", b.bytes);
  v("type", b.type);
}
template <class V>
void describe(V& v, StateDecl& s) {
  v("name", s.name);
  v("row", s.row);
}
template <class V>
void describe(V& v, Port& p) {
  v("role", p.role);
  v("buffer", p.buffer);
  v("output", p.output);
}
template <class V>
void describe(V& v, Kernel& k) {
  v("name", k.name);
  v("digest", k.digest);
}
template <class V>
void describe(V& v, Limits& l) {
  v("max_model_len", l.max_model_len);
  v("max_num_seqs", l.max_num_seqs);
  v("max_num_batched_tokens", l.max_num_batched_tokens);
  v("max_logit_rows", l.max_logit_rows);
  v("page_size", l.page_size);
}
template <class V>
void describe(V& v, ModelInfo& m) {
  v("name", m.name);
  v("vocab_size", m.vocab_size);
  v("eos_ids", m.eos_ids);
  v("bos_id", m.bos_id);
  v("layers", m.layers);
  v("experts", m.experts);
  v("experts_per_token", m.experts_per_token);
  v("moe_layers", m.moe_layers);
  v("parameters", m.parameters);
  v("active_parameters", m.active_parameters);
}
template <class V>
void describe(V& v, Launch& l) {
  v("kernel", l.kernel);
  v("grid", l.grid);
  v("threads", l.threads);
  v("smem", l.smem);
  v("cluster", l.cluster);
  v("dependent", l.dependent);
  v("args", l.args);
}
template <class V>
void describe(V& v, Matmul& m) {
  v("x", m.x);
  v("w", m.w);
  v("c", m.c);
  v("bias", m.bias);
  v("d", m.d);
  v("x_type", m.x_type);
  v("w_type", m.w_type);
  v("d_type", m.d_type);
  v("m", m.m);
  v("n", m.n);
  v("k", m.k);
  v("workspace_bytes", m.workspace_bytes);
  v("workspace", m.workspace);
}
template <class V>
void describe(V& v, Copy& c) {
  v("from", c.from);
  v("to", c.to);
  v("size", c.bytes);
}
template <class V>
void describe(V& v, Fill& f) {
  v("to", f.to);
  v("size", f.bytes);
  v("value", f.value);
}
template <class V>
void describe(V& v, Constant& c) {
  v("to", c.to);
  v("values", c.values);
}
template <class V>
void describe(V& v, Read& r) {
  v("file", r.file);
  v("tensor", r.tensor);
  v("from_offset", r.from_offset);
  v("from_pitch", r.from_pitch);
  v("to", r.to);
  v("to_pitch", r.to_pitch);
  v("rows", r.rows);
  v("row_bytes", r.row_bytes);
  v("transpose_rows", r.transpose_rows);
  v("element_bytes", r.element_bytes);
}
template <class V>
void describe(V& v, Step& s) {
  v("name", s.name);
  v("loc", s.loc);
  v.step_kind(s.what);  // "kind", and the keys of that kind
  v("bytes", s.bytes);
  v("flops", s.flops);
  v("writes", s.writes);
}
template <class V>
void describe(V& v, Program& p) {
  v("name", p.name);
  v("graph", p.graph);
  v("decode", p.decode);
  v("workspace_bytes", p.workspace_bytes);
  v("dims", p.dims);
  v("steps", p.steps);
}
template <class V>
void describe(V& v, Plan& p) {
  v("format", p.format);
  v("compiler", p.compiler);
  v("target", p.target);
  v("activation_dtype", p.activation_dtype);
  v("model_directory", p.model_directory);
  v("model", p.model);
  v("limits", p.limits);
  v("weights_bytes", p.weights_bytes);
  v("workspace_bytes", p.workspace_bytes);
  v("io_bytes", p.io_bytes);
  v("dims", p.dims);
  v("files", p.files);
  v("states", p.states);
  v("ports", p.ports);
  v("kernels", p.kernels);
  v("buffers", p.buffers);
  v("programs", p.programs);
}

constexpr std::array<std::string_view, 3> kArenaNames = {"weights", "workspace", "io"};
// In the order of StepKind.
constexpr std::array<std::string_view, std::variant_size_v<StepKind>> kStepKindNames = {
    "launch", "matmul", "copy", "fill", "constant", "read"};

template <class T>
constexpr bool kOneALine =
    std::is_same_v<T, PlanFile> || std::is_same_v<T, Buffer> || std::is_same_v<T, StateDecl> ||
    std::is_same_v<T, Port> || std::is_same_v<T, Kernel> || std::is_same_v<T, Program> ||
    std::is_same_v<T, Step>;
template <class T>
struct IsSequence : std::false_type {};
template <class T>
struct IsSequence<std::vector<T>> : std::true_type {};
template <class T, size_t N>
struct IsSequence<std::array<T, N>> : std::true_type {};

/// A size expression that is just a number is written as one.
bool is_plain_number(std::string_view text) {
  const std::string_view digits = text.substr(text.starts_with('-') ? 1 : 0);
  if (digits.empty() || digits.size() > 17 || text == "-0") return false;
  if (digits.size() > 1 && digits[0] == '0') return false;
  return digits.find_first_not_of("0123456789") == std::string_view::npos;
}

// ---- writing
// --------------------------------------------------------------------------------------------------

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
  void put(Arena arena) { put(std::string(kArenaNames[static_cast<size_t>(arena)])); }
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

// ---- reading
// --------------------------------------------------------------------------------------------------

/// Where we are in the document; made into text only for an error.
struct Path {
  const Path* parent = nullptr;
  const char* key = nullptr;  // or an index
  size_t index = 0;

  std::string to_string() const {
    if (parent == nullptr) return "plan.json";
    const std::string before = parent->to_string();
    if (key == nullptr) return fmt::format("{}[{}]", before, index);
    return before + (parent->parent == nullptr ? ": " : ".") + key;
  }
};

[[noreturn]] void fail(const Path& path, const std::string& what) {
  plan_error("{}{} {}", path.to_string(), path.parent == nullptr ? ":" : "", what);
}

std::string shown(const Json& json) {
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 40) text = text.substr(0, 37) + "...";
  return text;
}

[[noreturn]] void fail_type(const Path& path, const char* expected, const Json& found) {
  // Containers are named, not shown: dumping a large one for a message is waste.
  fail(path, fmt::format("is {}, expected {}",
                         found.is_structured() ? found.type_name() : shown(found), expected));
}

/// Sizes come from outside, so what ir/dim.h counts as our mistake (overflow) is the plan's mistake
/// here.
template <class F>
auto outside(const Path& path, F&& f) {
  try {
    return f();
  } catch (const Error& e) {
    fail(path, fmt::format("is wrong: {}", e.what()));
  }
}

Type parse_type(const Path& path, const std::string& text) {
  const size_t open = text.find('[');
  if (text.size() > kMaxExprText || open == std::string::npos || text.back() != ']') {
    fail(path, "is not a type like bf16[T, 64]");
  }
  const auto dtype = parse_dtype(std::string_view(text).substr(0, open));
  if (!dtype)
    fail(path,
         fmt::format("names no element type: '{}'", text.substr(0, std::min<size_t>(open, 40))));
  Type type{*dtype, {}};
  std::string_view sizes = std::string_view(text).substr(open + 1, text.size() - open - 2);
  while (!sizes.empty()) {
    const size_t comma = sizes.find(", ");
    const std::string_view size = sizes.substr(0, comma);
    type.shape.push_back(outside(path, [&] { return Dim::parse(size); }));
    if (comma == std::string_view::npos) break;
    sizes = sizes.substr(comma + 2);
    if (sizes.empty()) fail(path, "is not a type like bf16[T, 64]");
  }
  return type;
}

void read(const Json& json, const Path& path, bool& value) {
  if (!json.is_boolean()) fail_type(path, "true or false", json);
  value = json.get<bool>();
}
void read(const Json& json, const Path& path, int64_t& value) {
  if (!json.is_number_integer()) fail_type(path, "a whole number", json);
  if (json.is_number_unsigned() && json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    fail_type(path, "a number below 2^63", json);
  }
  value = json.get<int64_t>();
}
void read(const Json& json, const Path& path, int& value) {
  int64_t wide = 0;
  read(json, path, wide);
  if (wide < INT32_MIN || wide > INT32_MAX) fail_type(path, "a 32-bit number", json);
  value = static_cast<int>(wide);
}
void read(const Json& json, const Path& path, double& value) {
  if (!json.is_number()) fail_type(path, "a number", json);
  value = json.get<double>();
}
void read(const Json& json, const Path& path, float& value) {
  double wide = 0;
  read(json, path, wide);
  // The shortest text of the largest float32 lies a little above it; from here on values would
  // round to infinity.
  constexpr double kTooLarge = 3.4028235677973366e38;
  if (!(std::abs(wide) < kTooLarge)) fail_type(path, "a float32 number", json);
  value = static_cast<float>(wide);
}
void read(const Json& json, const Path& path, std::string& value) {
  if (!json.is_string()) fail_type(path, "text", json);
  value = json.get_ref<const std::string&>();
}
void read(const Json& json, const Path& path, DimExpr& value) {
  if (json.is_number_integer()) {
    int64_t number = 0;
    read(json, path, number);
    value = DimExpr(number);
    return;
  }
  if (!json.is_string()) fail_type(path, "a size expression", json);
  const auto& text = json.get_ref<const std::string&>();
  if (text.size() > kMaxExprText) fail(path, "is too long for a size expression");
  value = outside(path, [&] { return DimExpr::parse(text); });
}
void read(const Json& json, const Path& path, Type& value) {
  std::string text;
  read(json, path, text);
  value = parse_type(path, text);
}
void read(const Json& json, const Path& path, DType& value) {
  std::string text;
  read(json, path, text);
  const auto dtype = parse_dtype(text);
  if (!dtype) fail_type(path, "an element type", json);
  value = *dtype;
}
void read(const Json& json, const Path& path, Arena& value) {
  std::string text;
  read(json, path, text);
  for (size_t i = 0; i < kArenaNames.size(); ++i) {
    if (text == kArenaNames[i]) {
      value = static_cast<Arena>(i);
      return;
    }
  }
  fail_type(path, "weights, workspace or io", json);
}

/// Reads the keys of one object; finish() rejects what nobody asked for.
class Reader {
 public:
  Reader(const Json& json, const Path& path) : json_(json), path_(path) {
    if (!json.is_object()) fail_type(path, "an object", json);
  }
  template <class T>
  void operator()(const char* key, T& value);
  void step_kind(StepKind& what);
  void finish() {
    if (json_.size() == seen_) return;
    for (const auto& item : json_.items()) {
      if (std::find(keys_.begin(), keys_.begin() + seen_, item.key()) == keys_.begin() + seen_) {
        fail(path_, fmt::format("has an unknown key {}", shown(Json(item.key()))));
      }
    }
  }
  bool has(const char* key) const { return json_.contains(key); }

 private:
  const Json& json_;
  const Path& path_;
  std::array<std::string_view, 32> keys_{};
  size_t seen_ = 0;
};

void read(const Json& json, const Path& path, Arg& arg) {
  if (json.is_null()) {
    arg.kind = Arg::Kind::null;
    return;
  }
  Reader reader(json, path);
  if (reader.has("buffer")) {
    arg.kind = Arg::Kind::buffer;
    reader("buffer", arg.index);
    reader("offset", arg.offset);
  } else if (reader.has("state")) {
    arg.kind = Arg::Kind::state;
    reader("state", arg.index);
  } else if (reader.has("dim_ptr")) {
    arg.kind = Arg::Kind::dim_ptr;
    reader("dim_ptr", arg.index);
  } else if (reader.has("i32")) {
    arg.kind = Arg::Kind::i32;
    reader("i32", arg.dim);
  } else if (reader.has("i64")) {
    arg.kind = Arg::Kind::i64;
    reader("i64", arg.dim);
  } else if (reader.has("f32")) {
    arg.kind = Arg::Kind::f32;
    reader("f32", arg.number);
  } else if (reader.has("expr")) {
    arg.kind = Arg::Kind::expr;
    reader("expr", arg.text);
  } else {
    fail(path, "names no kind of argument (buffer, state, dim_ptr, i32, i64, f32, expr)");
  }
  reader.finish();
}

template <class T>
void read(const Json& json, const Path& path, T& value) {
  if constexpr (IsSequence<T>::value) {
    if (!json.is_array()) fail_type(path, "a list", json);
    if constexpr (requires { value.resize(1); }) {
      value.resize(json.size());
    } else if (json.size() != value.size()) {
      fail(path, fmt::format("has {} entries, expected {}", json.size(), value.size()));
    }
    for (size_t i = 0; i < json.size(); ++i) read(json[i], Path{&path, nullptr, i}, value[i]);
  } else {
    Reader reader(json, path);
    describe(reader, value);
    reader.finish();
  }
}

template <class T>
void Reader::operator()(const char* key, T& value) {
  const auto it = json_.find(key);
  if (it == json_.end()) fail(path_, fmt::format("has no key \"{}\"", key));
  keys_[seen_++] = key;
  read(*it, Path{&path_, key, 0}, value);
}

template <size_t... I>
void emplace_kind(StepKind& what, size_t index, std::index_sequence<I...>) {
  ((index == I ? void(what.emplace<I>()) : void()), ...);
}

void Reader::step_kind(StepKind& what) {
  std::string kind;
  (*this)("kind", kind);
  const auto it = std::find(kStepKindNames.begin(), kStepKindNames.end(), kind);
  if (it == kStepKindNames.end()) {
    fail(path_, fmt::format("has the unknown kind {}", shown(Json(kind))));
  }
  emplace_kind(what, static_cast<size_t>(it - kStepKindNames.begin()),
               std::make_index_sequence<std::variant_size_v<StepKind>>{});
  std::visit([this](auto& alternative) { describe(*this, alternative); }, what);
}

/// Rejects deep nesting before the JSON library sees it.
void check_depth(const std::string& text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth)
        plan_error("plan.json: nested deeper than {} levels: this is not a plan", kMaxDepth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

}  // namespace

std::string to_json(const Plan& plan) {
  Writer writer;
  writer.put_top(plan);
  return writer.take();
}

Plan plan_from_json(const std::string& text) {
  check_depth(text);
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::exception& e) {
    plan_error("plan.json: not valid JSON: {}", e.what());
  }
  const Path root;
  if (!json.is_object()) fail_type(root, "an object", json);
  // First, so that a plan of another version is named as such and not by the keys that changed.
  const auto format = json.find("format");
  if (format == json.end()) fail(root, "has no key \"format\": this is not a plan");
  if (!format->is_number_integer() || *format != kPlanFormat) {
    plan_error("plan.json: format is {}, this program reads format {}: compile the model again",
               shown(*format), kPlanFormat);
  }
  Plan plan;
  read(json, root, plan);
  return plan;
}

}  // namespace shunt
