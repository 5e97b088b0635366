// eval_ of ops that move or map elements. Tested by tests/ir/evaluator_test.cpp.
#include <algorithm>

#include "ir/expr.h"
#include "ir/reference/op_call.h"

namespace shunt::ir {

namespace {

/// Copies `n` elements, floats or integers.
void copy(const Tensor& from, int64_t from_at, Tensor& to, int64_t to_at, int64_t n) {
  if (is_float(from.type.dtype)) {
    std::copy_n(from.f.begin() + from_at, n, to.f.begin() + to_at);
  } else {
    std::copy_n(from.i.begin() + from_at, n, to.i.begin() + to_at);
  }
}

int32_t checked_row(int32_t row, int64_t rows, const char* what) {
  if (row < 0 || row >= rows) user_error("{} {} is outside [0, {})", what, row, rows);
  return row;
}

}  // namespace

void eval_concat(OpCall& call) {
  const int64_t axis = call.attrs<AxisAttrs>().axis;
  Tensor& out = call.out();
  const int64_t inner = inner_size(out.type, axis);
  const int64_t width = out.size(static_cast<int>(axis)) * inner;
  int64_t at = 0;
  for (size_t i = 0; i < call.operands.size(); ++i) {
    const Tensor& x = call.in(i);
    const int64_t mine = x.size(static_cast<int>(axis)) * inner;
    for (int64_t outer = 0; mine > 0 && outer < x.elements() / mine; ++outer) {
      copy(x, outer * mine, out, outer * width + at, mine);
    }
    at += mine;
  }
}

void eval_slice(OpCall& call) {
  const auto& a = call.attrs<SliceAttrs>();
  const Tensor& x = call.in(0);
  const int64_t inner = inner_size(x.type, a.axis);
  const int64_t width = x.size(static_cast<int>(a.axis)) * inner;
  const int64_t n = (a.end - a.begin) * inner;
  for (int64_t outer = 0; width > 0 && outer < x.elements() / width; ++outer) {
    copy(x, outer * width + a.begin * inner, call.out(), outer * n, n);
  }
}

void eval_reshape(OpCall& call) { copy(call.in(0), 0, call.out(), 0, call.in(0).elements()); }

void eval_embedding(OpCall& call) {
  const auto& a = call.attrs<EmbeddingAttrs>();
  const Tensor& ids = call.in(0);
  const Tensor& table = call.in(1);
  const int64_t width = table.last();
  const bool part = !a.begins.empty();
  const int64_t begin =
      part ? a.begins[static_cast<size_t>(call.mesh->index(a.over, call.rank))] : 0;
  for (size_t t = 0; t < ids.i.size(); ++t) {
    const auto id = static_cast<int32_t>(ids.i[t] + a.offset - begin);
    const auto to = static_cast<int64_t>(t) * width;
    if (part && (id < 0 || id >= table.size(0))) {
      std::fill_n(call.out().f.begin() + to, width, 0.0f);  // a row of another rank
      continue;
    }
    copy(table, checked_row(id, table.size(0), "id") * width, call.out(), to, width);
  }
}

void eval_pointwise(OpCall& call) {
  const Expr expr = Expr::parse(call.attrs<PointwiseAttrs>().expr);
  Tensor& out = call.out();
  const int64_t columns = out.type.last().constant();
  struct Source {
    const Tensor* x;
    int64_t row_stride, column_stride;
  };
  std::vector<Source> sources;  // in the order of the expression's variables
  for (const std::string& name : expr.variables()) {
    const auto i = static_cast<size_t>(std::stoi(name.substr(1)));
    const Tensor& x = call.in(i);
    const bool row_vector = call.op.operands[i]->type.shape != call.op.operands[0]->type.shape &&
                            x.type.rank() == 1 && x.last() == columns;
    const int64_t column_stride = x.last() == columns ? 1 : 0;
    sources.push_back({&x, row_vector ? 0 : x.last(), column_stride});
  }
  std::vector<float> values(sources.size());
  for (int64_t r = 0; r < out.rows(); ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      for (size_t i = 0; i < sources.size(); ++i) {
        values[i] = sources[i].x->f[r * sources[i].row_stride + c * sources[i].column_stride];
      }
      out.f[r * columns + c] = expr.evaluate(values);
    }
  }
}

void eval_glu(OpCall& call) {
  const Expr expr = Expr::parse(call.attrs<GluAttrs>().expr);
  const Tensor& x = call.in(0);
  Tensor& out = call.out();
  const int64_t n = out.last();
  std::vector<float> values(expr.variables().size());
  for (int64_t r = 0; r < out.rows(); ++r) {
    for (int64_t c = 0; c < n; ++c) {
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = x.row(r)[expr.variables()[i] == "gate" ? c : n + c];
      }
      out.row(r)[c] = expr.evaluate(values);
    }
  }
}

void eval_gather_rows(OpCall& call) {
  const Tensor& x = call.in(0);
  const Tensor& rows = call.in(1);
  for (size_t r = 0; r < rows.i.size(); ++r) {
    const int32_t from = checked_row(rows.i[r], x.size(0), "row");
    copy(x, from * x.last(), call.out(), static_cast<int64_t>(r) * x.last(), x.last());
  }
}

}  // namespace shunt::ir
