// Reading plan.json, strictly: an unknown or missing key, or a value of another type, is an error
// with its path. Entry point plan_from_json(); tested by tests/runtime/plan/plan_json_test.cpp and
// fuzzed by tests/fuzz/fuzz_plan.cpp.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "ir/error.h"
#include "runtime/plan/plan_fields.h"

namespace shunt {

namespace {

using namespace plan_fields;
using Json = nlohmann::json;

constexpr int kMaxDepth = 16;          // plan.programs[].steps[].args[] needs 7
constexpr size_t kMaxExprText = 2048;  // of one size expression or type

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
/// One of `names`, in the order of the enum's values.
template <class E, size_t N>
void read_name(const Json& json, const Path& path, E& value,
               const std::array<std::string_view, N>& names, const char* expected) {
  std::string text;
  read(json, path, text);
  const auto it = std::find(names.begin(), names.end(), text);
  if (it == names.end()) fail_type(path, expected, json);
  value = static_cast<E>(it - names.begin());
}
void read(const Json& json, const Path& path, Arena& value) {
  read_name(json, path, value, kArenaNames, "weights, workspace, io, counters or peer");
}
void read(const Json& json, const Path& path, Collective::Kind& value) {
  read_name(json, path, value, kCollectiveNames, "all_reduce, all_gather, reduce_scatter or all_to_all");
}
void read(const Json& json, const Path& path, MeshAxis& value) {
  read_name(json, path, value, enum_names(MeshAxis{}), "dp, tp, ep, etp or world");
}
void read(const Json& json, const Path& path, StateKind& value) {
  std::string text;
  read(json, path, text);
  for (size_t i = 0; i < kStateKindNames.size(); ++i) {
    if (text == kStateKindNames[i]) {
      value = static_cast<StateKind>(i);
      return;
    }
  }
  fail_type(path, "paged or slot", json);
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
  } else if (reader.has("rank")) {
    arg.kind = Arg::Kind::rank;
    reader("rank", arg.index);
  } else if (reader.has("peers")) {
    arg.kind = Arg::Kind::peers;
    reader("peers", arg.index);
    reader("over", arg.over);
  } else if (reader.has("expr")) {
    arg.kind = Arg::Kind::expr;
    reader("expr", arg.text);
  } else {
    fail(path,
         "names no kind of argument (buffer, state, dim_ptr, i32, i64, f32, rank, peers, expr)");
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
  } else if constexpr (IsOptional<T>::value) {
    value.reset();
    if (!json.is_null()) read(json, path, value.emplace());
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
