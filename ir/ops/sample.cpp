// infer_ and cost_ of sample. Tested by tests/ir/ops/sample.mir.
#include "ir/ops/check.h"

namespace shunt::ir {

// C1 logits are f32[R, V]. C2 temperature, top_p and uniform are f32[R]. C3 top_k is i32[R].
std::vector<Type> infer_sample(const Op& op) {
  check_operands(op, {"logits", "temperature", "top_k", "top_p", "uniform"});
  const Type& logits = type_of(op, 0);
  SHUNT_RULE(1, is_f32(logits, 2), "logits {} are not f32[R, V]", str(logits));
  const Dim& rows = logits.shape[0];
  for (size_t i : {1, 3, 4}) {
    SHUNT_RULE(2, is_f32(type_of(op, i), 1) && type_of(op, i).shape[0] == rows,
               "operand {} : {} does not match the rows of logits {}", i, str(type_of(op, i)),
               str(logits));
  }
  SHUNT_RULE(3, is_i32(type_of(op, 2), 1) && type_of(op, 2).shape[0] == rows,
             "top_k {} does not match the rows of logits {}", str(type_of(op, 2)), str(logits));
  return {{DType::i32, {rows}}};
}
Cost cost_sample(const Op& op) { return {io_bytes(op), type_of(op, 0).elements() * 8}; }

}  // namespace shunt::ir
