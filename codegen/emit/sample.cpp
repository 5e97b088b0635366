// The row of sample (kernels/sample.cuh). Entry point sample_kernels(); tested by
// tests/codegen/sample_nvrtc_test.cpp (compiles) and tests/kernels (values).
#include "codegen/emit/families.h"
#include "codegen/emit/launch.h"

namespace shunt::codegen {

namespace {

constexpr int64_t kThreads = 1024;

/// Sums of probabilities are 64-bit integers in units of 2^-40 of the largest: room for 2^23 of
/// them.
constexpr int64_t kMaxVocabulary = int64_t{1} << 22;

bool supports(const ir::Op& op, const Context& context) {
  const Dim& vocabulary = op.operand(0)->type.last();
  return is_cuda(context) && vocabulary.is_constant() && vocabulary.constant() <= kMaxVocabulary;
}

double seconds(const ir::Op& op, const Context& context) {
  return roofline_seconds(op, context, false, 0.1, 0.1);
}

void emit(const ir::Op& op, StepBuilder& steps) {
  const Type& logits = op.operand(0)->type;
  LaunchBuilder launch(steps, "sample", "sample.cuh", "sample");
  launch.number("kVocab", logits.last().constant()).number("kThreads", kThreads);
  launch.in("logits", op.operand(0)).in("temperature", op.operand(1)).in("top_k", op.operand(2));
  launch.in("top_p", op.operand(3)).in("uniform", op.operand(4)).out("ids", op.result());
  launch.size("R", logits.shape[0]);
  launch.launch(logits.shape[0], kThreads);
}

}  // namespace

std::vector<KernelImpl> sample_kernels() {
  return {{"sample.block", ir::OpKind::sample, supports, seconds, emit}};
}

}  // namespace shunt::codegen
