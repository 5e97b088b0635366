// The description of a product that the rows of the linear family work from. Entry point:
// describe_product. Covered by tests/codegen/linear_rows_test.cpp and, for the epilogue's text,
// tests/codegen/linear_nvrtc_test.cpp.
#include "codegen/emit/linear_shared.h"

#include <algorithm>

#include "ir/error.h"

namespace shunt::codegen {

Product describe_product(const ir::Op& op) {
  Product p{.op = op, .x = op.operand(0), .w = op.operand(1)};
  const Type& weight = p.w->type;
  std::string epilogue;
  if (op.kind == ir::OpKind::grouped_linear) {
    const auto& a = op.as<ir::GroupedLinearAttrs>();
    epilogue = a.epilogue;
    p.glu = a.glu;
    p.first_extra = 4;
  } else if (op.kind == ir::OpKind::head_linear) {
    p.heads = weight.shape[0].constant();
  } else {
    const auto& a = op.as<ir::LinearAttrs>();
    epilogue = a.epilogue;
    p.glu = a.glu;
    p.first_extra = op.kind == ir::OpKind::linear ? 2 : 3;
  }
  p.rows = op.result()->type.shape[0];
  p.columns = op.result()->type.last().constant();
  p.depth = weight.last().constant();
  p.experts = weight.rank() == 3 && p.heads == 0 ? weight.shape[0].constant() : 1;
  p.epilogue = Expr::parse(epilogue.empty() ? "acc" : epilogue);
  return p;
}

bool has_device_types(const Product& p, const Context& context) {
  return is_cuda(context) && has_plain_types(p.op) && p.depth > 0 && p.columns > 0 &&
         p.weight_rows() * p.depth < (int64_t{1} << 40) && p.weight_rows() < (int64_t{1} << 30) &&
         p.depth < (int64_t{1} << 24);
}

std::string epilogue_text(const Product& p) {
  std::string parameters = "const float* value, int row, int column";
  std::vector<std::string> names;
  for (const std::string& variable : p.epilogue.variables()) {
    if (variable == "acc" || variable == "gate") {
      names.push_back("value[0]");
    } else if (variable == "up") {
      names.push_back("value[1]");
    } else {
      names.push_back(variable + "_value");
    }
  }
  std::string body;
  for (size_t i = p.first_extra; i < p.op.operands.size(); ++i) {
    const Type& type = p.op.operand(i)->type;
    const std::string name = fmt::format("x{}", i - p.first_extra);
    parameters += fmt::format(", const {}* {}", cuda_type(type.dtype), name);
    const std::string index =
        type.rank() == 2 ? fmt::format("static_cast<shunt::int64>(row) * {} + column", p.columns)
                         : "column";
    body += fmt::format("    const float {0}_value = shunt::to_float({0}[{1}]);\n", name, index);
  }
  return fmt::format(
      "  static __device__ __forceinline__ float epilogue({}) {{\n{}    return {};\n  }}\n",
      parameters, body, p.epilogue.to_cuda(names));
}

void add_extra_operands(const Product& p, LaunchBuilder& launch) {
  for (size_t i = p.first_extra; i < p.op.operands.size(); ++i) {
    launch.in(fmt::format("x{}", i - p.first_extra), p.op.operand(i));
  }
}

double product_bytes(const Product& p, const Context& context, double rows_share) {
  const auto bytes = [&](const ir::Value* v) {
    return v == nullptr ? 0.0 : static_cast<double>(context.bound(v->type.bytes()));
  };
  double total = bytes(p.op.result());
  for (const ir::Value* v : p.op.operands) {
    if (v != p.w) total += bytes(v);
  }
  const double experts =
      static_cast<double>(std::min(p.experts, std::max<int64_t>(1, context.bound(p.rows))));
  const double one = static_cast<double>(p.weight_rows()) * static_cast<double>(p.depth) *
                     static_cast<double>(dtype_bytes(p.w_type()));
  return total * rows_share + static_cast<double>(std::max<int64_t>(1, p.heads)) * experts * one;
}

double product_flops(const Product& p, double rows) {
  return 2.0 * rows * static_cast<double>(std::max<int64_t>(1, p.heads)) *
         static_cast<double>(p.weight_rows()) * static_cast<double>(p.depth);
}

}  // namespace shunt::codegen
