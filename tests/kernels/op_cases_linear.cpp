// Cases of linear: shapes that no tile divides, mixed types, every form of epilogue. Entry point
// linear_cases(). Run by op_cpu_test.cpp and op_gpu_test.cpp.
#include "tests/kernels/op_cases.h"
#include "tests/kernels/op_cases_text.h"

namespace shunt::test {

namespace {

/// `extra`: the operands behind the weight; "B" is a parameter [N'], "X" an input [T, N'].
struct Form {
  const char* name;
  const char* epilogue;
  const char* extra;
  bool glu;
};

constexpr Form kForms[] = {
    {"plain", "", "", false},
    {"bias", "acc + x0", "B", false},
    {"gelu", "gelu(acc + x0)", "B", false},
    {"residual", "acc + x0", "X", false},
    {"bias_residual", "acc + x0 + x1", "BX", false},
    {"glu", "silu(gate) * up", "", true},
    {"glu_bias", "gelu_tanh(gate + x0) * up", "B", true},
    {"clamped", "min(gate, 2) * sigmoid(1.702 * min(gate, 2)) * (clamp(up, -2, 2) + 1)", "", true},
    {"scaled", "x0 * (acc * 0.5)", "X", false},
};

struct Types {
  const char *x, *w, *out;
};

struct Shape {
  int64_t k, n;  // n: rows of w
};

OpCase make(const Shape& s, const Types& t, const Form& f) {
  const int64_t columns = f.glu ? s.n / 2 : s.n;
  std::string params = fmt::format("param @w : {}[{}, {}]\n", t.w, s.n, s.k), operands, inputs;
  for (const char* e = f.extra; *e != '\0'; ++e) {
    if (*e == 'B') {
      params += fmt::format("param @b : {}[{}]\n", t.out, columns);
      operands += ", @b";
    } else {
      inputs += fmt::format(", %r : {}[T, {}]", t.out, columns);
      operands += ", %r";
    }
  }
  const auto graph = [&](const char* name, const char* dims) {
    return fmt::format(
        "graph @step.{name}(%x : {x}[T, {k}]{inputs}) dims({dims}) {{\n"
        "  %y = linear %x, @w{operands} {{epilogue = \"{e}\", glu = {glu}, out = {o}}} : "
        "{o}[T, {c}]\n  return %y\n}}\n",
        fmt::arg("name", name), fmt::arg("dims", dims), fmt::arg("x", t.x), fmt::arg("k", s.k),
        fmt::arg("inputs", inputs), fmt::arg("operands", operands), fmt::arg("e", f.epilogue),
        fmt::arg("glu", f.glu), fmt::arg("o", t.out), fmt::arg("c", columns));
  };
  OpCase c;
  c.name = case_name(fmt::format("linear_{}_{}_{}_{}_k{}_n{}", f.name, t.x, t.w, t.out, s.k, s.n));
  c.module = module_text(params + graph("decode.4", "T in [1, 4], S in [1, 4], R in [1, 4]") +
                             graph("small", "T in [1, 16]") + graph("large", "T in [17, 300]"),
                         300);
  c.runs = {decode_run(3)};
  for (const int64_t tokens : {1, 2, 5, 8, 9, 16, 17, 64, 130, 257}) c.runs.push_back({{tokens}});
  c.cpu = std::string(t.x) == "f32" && std::string(t.out) == "f32";
  return c;
}

/// Long sums: the number of columns small, so that the reference stays quick.
OpCase deep(const Types& t) { return make({4100, 24}, t, kForms[4]); }

OpCase heads_case(int64_t heads, const Shape& s, const Types& t) {
  const auto graph = [&](const char* name, const char* dims) {
    return fmt::format(
        "graph @step.{name}(%x : {x}[T, {h}, {k}]) dims({dims}) {{\n"
        "  %y = head_linear %x, @w {{out = {o}}} : {o}[T, {h}, {n}]\n  return %y\n}}\n",
        fmt::arg("name", name), fmt::arg("dims", dims), fmt::arg("x", t.x), fmt::arg("h", heads),
        fmt::arg("k", s.k), fmt::arg("o", t.out), fmt::arg("n", s.n));
  };
  OpCase c;
  c.name =
      case_name(fmt::format("head_linear_{}_{}_{}_h{}_k{}_n{}", t.x, t.w, t.out, heads, s.k, s.n));
  c.module = module_text(fmt::format("param @w : {}[{}, {}, {}]\n", t.w, heads, s.n, s.k) +
                             graph("decode.4", "T in [1, 4], S in [1, 4], R in [1, 4]") +
                             graph("small", "T in [1, 16]") + graph("large", "T in [17, 200]"),
                         200);
  c.runs = {decode_run(3)};
  for (const int64_t tokens : {1, 5, 16, 17, 130}) c.runs.push_back({{tokens}});
  c.cpu = std::string(t.x) == "f32" && std::string(t.out) == "f32";
  return c;
}

}  // namespace

std::vector<OpCase> linear_cases() {
  constexpr Shape shapes[] = {{1, 2},   {7, 6},    {8, 2},     {13, 18},  {24, 16},
                              {64, 64}, {72, 130}, {100, 258}, {129, 66}, {512, 40}};
  constexpr Types main_types[] = {{"f32", "f32", "f32"}, {"bf16", "bf16", "bf16"}};
  constexpr Types other_types[] = {
      {"f32", "bf16", "f32"},  {"f32", "f16", "f32"},  {"f16", "f16", "f16"},
      {"bf16", "f32", "bf16"}, {"f16", "bf16", "f16"}, {"bf16", "f16", "bf16"},
      {"bf16", "bf16", "f32"}, {"f16", "f16", "f32"},  {"f32", "bf16", "bf16"}};
  std::vector<OpCase> cases;
  size_t form = 0;
  for (const Types& t : main_types) {
    for (const Shape& s : shapes) cases.push_back(make(s, t, kForms[form++ % std::size(kForms)]));
    for (const Form& f : kForms) {
      OpCase c = make({40, 34}, t, f);
      cases.push_back(std::move(c));
    }
    cases.push_back(deep(t));
  }
  for (const Types& t : other_types) {
    for (const Shape& s : {Shape{13, 18}, Shape{72, 130}, Shape{256, 64}}) {
      cases.push_back(make(s, t, kForms[form++ % std::size(kForms)]));
    }
  }
  cases.push_back(deep(other_types[2]));
  for (const Types& t : {main_types[0], main_types[1], other_types[0], other_types[2]}) {
    cases.push_back(heads_case(1, {24, 16}, t));
    cases.push_back(heads_case(5, {13, 18}, t));
    cases.push_back(heads_case(16, {128, 96}, t));
  }
  return cases;
}

}  // namespace shunt::test
