// eval_ of linear, head_linear, routed_linear and grouped_linear. Tested by
// tests/ir/evaluator_test.cpp.
#include <algorithm>

#include "ir/expr.h"
#include "ir/reference/math.h"
#include "ir/reference/op_call.h"

namespace shunt::ir {

namespace {

/// An epilogue with its variables resolved: the accumulator's halves, or extra operands.
class Epilogue {
 public:
  Epilogue(const OpCall& call, const std::string& text, bool glu, size_t first_extra) : glu_(glu) {
    if (text.empty()) return;
    expr_ = Expr::parse(text);
    for (const std::string& name : expr_.variables()) {
      const bool extra = name[0] == 'x';
      extras_.push_back(extra ? &call.in(first_extra + std::stoul(name.substr(1))) : nullptr);
      from_up_.push_back(name == "up");
    }
    values_.resize(extras_.size());
  }

  /// `acc` has N elements, `out` N or with glu N / 2. Extra operands of more than one row are read
  /// at `extra_row`.
  void apply(const float* acc, int64_t n, int64_t extra_row, float* out) {
    const int64_t columns = glu_ ? n / 2 : n;
    if (expr_.empty()) return static_cast<void>(std::copy_n(acc, n, out));
    for (int64_t c = 0; c < columns; ++c) {
      for (size_t i = 0; i < values_.size(); ++i) {
        const Tensor* x = extras_[i];
        if (x != nullptr) {
          values_[i] = x->row(x->type.rank() == 1 ? 0 : extra_row)[c];
        } else {
          values_[i] = acc[from_up_[i] ? columns + c : c];
        }
      }
      out[c] = expr_.evaluate(values_);
    }
  }

 private:
  bool glu_;
  Expr expr_;
  std::vector<const Tensor*> extras_;  // by variable; nullptr: the accumulator
  std::vector<bool> from_up_;
  std::vector<float> values_;
};

/// One row of routed_linear or grouped_linear: x times an expert's weight, then the epilogue.
void expert_row(const float* x, const Tensor& w, int64_t expert, Epilogue& epilogue,
                std::vector<float>& acc, float* out) {
  const int64_t n = w.size(1), k = w.size(2);
  acc.resize(static_cast<size_t>(n));
  for (int64_t c = 0; c < n; ++c) acc[c] = static_cast<float>(dot(x, w.row(expert * n + c), k));
  epilogue.apply(acc.data(), n, expert, out);
}

}  // namespace

void eval_linear(OpCall& call) {
  const auto& a = call.attrs<LinearAttrs>();
  const Tensor& x = call.in(0);
  const Tensor& w = call.in(1);
  const int64_t rows = x.size(0), n = w.size(0), k = w.size(1);
  std::vector<float> acc(static_cast<size_t>(rows * n));
  for (int64_t c = 0; c < n; ++c) {  // outer, so that a weight row is read from memory once
    for (int64_t r = 0; r < rows; ++r)
      acc[r * n + c] = static_cast<float>(dot(x.row(r), w.row(c), k));
  }
  Epilogue epilogue(call, a.epilogue, a.glu, 2);
  for (int64_t r = 0; r < rows; ++r) epilogue.apply(acc.data() + r * n, n, r, call.out().row(r));
}

void eval_head_linear(OpCall& call) {
  const Tensor &x = call.in(0), &w = call.in(1);
  const int64_t heads = w.size(0), n = w.size(1), k = w.size(2);
  for (int64_t r = 0; r < x.rows(); ++r) {  // a row a token and head
    for (int64_t c = 0; c < n; ++c) {
      call.out().row(r)[c] = static_cast<float>(dot(x.row(r), w.row(r % heads * n + c), k));
    }
  }
}

void eval_routed_linear(OpCall& call) {
  const auto& a = call.attrs<LinearAttrs>();
  const Tensor& x = call.in(0);
  const Tensor& w = call.in(1);
  const Tensor& ids = call.in(2);
  const bool row_per_route = x.size(0) == ids.elements();
  Epilogue epilogue(call, a.epilogue, a.glu, 3);
  std::vector<float> acc;
  for (int64_t r = 0; r < ids.elements(); ++r) {
    if (ids.i[r] < 0) continue;
    if (ids.i[r] >= w.size(0))
      user_error("expert id {} of route {} is outside [0, {})", ids.i[r], r, w.size(0));
    expert_row(x.row(row_per_route ? r : r / ids.last()), w, ids.i[r], epilogue, acc,
               call.out().row(r));
  }
}

void eval_grouped_linear(OpCall& call) {
  const auto& a = call.attrs<GroupedLinearAttrs>();
  const Tensor& x = call.in(0);
  const Tensor& w = call.in(1);
  const Tensor& offsets = call.in(2);
  const Tensor& rows = call.in(3);
  Epilogue epilogue(call, a.epilogue, a.glu, 4);
  std::vector<float> acc;
  for (int64_t e = 0; e < w.size(0); ++e) {
    const int64_t begin = offsets.i[e], end = offsets.i[e + 1];
    if (begin < 0 || end < begin || end > rows.elements())
      user_error("offsets {}, {} of expert {}", begin, end, e);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t route = rows.i[r];
      if (route < 0 || route >= rows.elements()) user_error("route {} in sorted row {}", route, r);
      const float* in = x.row(a.gather > 0 ? route / a.gather : r);
      expert_row(in, w, e, epilogue, acc, call.out().row(a.scatter ? route : r));
    }
  }
}

}  // namespace shunt::ir
