// The text of a kernel: an #include of its header, a Config struct of named arguments, and the
// extern "C" entry. Entry point: KernelSource::text. Covered by
// tests/codegen/linear_source_test.cpp and linear_nvrtc_test.cpp.
#include <cctype>
#include <cmath>
#include <limits>

#include "codegen/kernel.h"
#include "ir/error.h"

namespace shunt::codegen {

TemplateArg TemplateArg::number(std::string name, int64_t value) {
  const bool wide =
      value > std::numeric_limits<int32_t>::max() || value < std::numeric_limits<int32_t>::min();
  return {std::move(name), fmt::format("{}{}", value, wide ? "ll" : ""), false};
}

TemplateArg TemplateArg::real(std::string name, double value) {
  const float rounded = static_cast<float>(value);
  SHUNT_CHECK(std::isfinite(rounded), "{} = {} is not a finite float32", name, value);
  std::string text = fmt::format("{:.9g}", rounded);  // nine digits give the float32 back exactly
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return {std::move(name), text + "f", false};
}

TemplateArg TemplateArg::boolean(std::string name, bool value) {
  return {std::move(name), value ? "true" : "false", false};
}

TemplateArg TemplateArg::type(std::string name, std::string value) {
  return {std::move(name), std::move(value), true};
}

TemplateArg TemplateArg::type(std::string name, DType dtype) {
  switch (dtype) {
    case DType::f32: return type(std::move(name), std::string("float"));
    case DType::f16: return type(std::move(name), std::string("shunt::f16"));
    case DType::bf16: return type(std::move(name), std::string("shunt::bf16"));
    case DType::i64: return type(std::move(name), std::string("shunt::int64"));
    case DType::i32: return type(std::move(name), std::string("int"));
    case DType::u8: return type(std::move(name), std::string("shunt::uint8"));
    case DType::f8e4m3: break;
  }
  internal_error(__FILE__, __LINE__, "no device type for {}", dtype_name(dtype));
}

namespace {

/// Names declared in a C++ parameter list, in order: the last identifier of each parameter.
std::vector<std::string> parameter_names(const std::string& parameters) {
  std::vector<std::string> names;
  int depth = 0;
  std::string word, last;
  auto end_word = [&] {
    if (!word.empty()) last = std::move(word);
    word.clear();
  };
  for (char c : parameters + ",") {
    if (std::isalnum(static_cast<unsigned char>(c)) || c == '_') {
      word += c;
      continue;
    }
    end_word();
    if (c == '<' || c == '(') ++depth;
    if (c == '>' || c == ')') --depth;
    if (c != ',' || depth != 0) continue;
    if (!last.empty()) names.push_back(std::move(last));
    last.clear();
  }
  return names;
}

}  // namespace

std::string KernelSource::text() const {
  SHUNT_CHECK(max_threads > 0, "kernel {} has no thread count", name);
  std::string text = fmt::format("#include \"{}\"\n\nstruct Config {{\n", header);
  for (const TemplateArg& arg : config) {
    if (arg.is_type) {
      text += fmt::format("  using {} = {};\n", arg.name, arg.value);
    } else {
      text += fmt::format("  static constexpr auto {} = {};\n", arg.name, arg.value);
    }
  }
  text += extra;
  if (!extra.empty() && extra.back() != '\n') text += '\n';
  text += "};\n\n";
  std::string arguments;
  for (const std::string& parameter : parameter_names(parameters)) {
    arguments += (arguments.empty() ? "" : ", ") + parameter;
  }
  text += fmt::format("extern \"C\" __global__ void __launch_bounds__({}, {})\n{}({}) {{\n",
                      max_threads, min_blocks, name, parameters);
  text += fmt::format("  shunt::{}<Config>({});\n}}\n", function, arguments);
  return text;
}

}  // namespace shunt::codegen
