// A store's operand is a small tree of checkpoint / slice / concat / transpose / reshape ops.
// Walking it from the parameter down, a Box says which part of a value goes where; at a checkpoint
// tensor the box becomes Read steps. Entry point lower_store(); tested by
// tests/codegen/lower_load_test.cpp.
#include "codegen/lower_load.h"

#include <algorithm>

#include "ir/error.h"

namespace shunt::codegen {

namespace {

using ir::OpKind;
using Sizes = std::vector<int64_t>;

/// The elements [begin, begin + size) of a value, and where they go: `offset` bytes into the
/// parameter, `stride` bytes from one index to the next along each axis.
struct Box {
  Sizes begin, size, stride;
  int64_t offset = 0;
};

Sizes shape_of(const ir::Value& v) {
  Sizes shape;
  for (const Dim& d : v.type.shape) shape.push_back(d.constant());
  return shape;
}

Sizes dense_strides(const Sizes& shape, int64_t element) {
  Sizes stride(shape.size());
  for (size_t i = shape.size(); i-- > 0;) {
    stride[i] = element;
    element *= shape[i];
  }
  return stride;
}

class StoreLowering {
 public:
  StoreLowering(const Arg& to, const LowerOptions& options) : to_(to), options_(options) {}

  std::vector<Step> steps;

  void place(const ir::Value& v, const Box& box) {
    const ir::Op* op = v.def;
    if (op == nullptr) unsupported(v);
    switch (op->kind) {
      case OpKind::checkpoint: return place_checkpoint(*op, box);
      case OpKind::constant: return place_constant(*op);
      case OpKind::slice: return place_slice(*op, box);
      case OpKind::concat: return place_concat(*op, box);
      case OpKind::transpose: return place_transpose(*op, box);
      case OpKind::reshape: return place_reshape(*op, box);
      default: unsupported(v);
    }
  }

 private:
  [[noreturn]] void unsupported(const ir::Value& v) {
    user_error("@load: cannot read `{}` into a parameter",
               v.def == nullptr ? v.name : ir::print(*v.def));
  }

  void place_slice(const ir::Op& op, Box box) {
    const auto& a = op.as<ir::SliceAttrs>();
    box.begin[a.axis] += a.begin;
    place(*op.operand(0), box);
  }

  void place_concat(const ir::Op& op, const Box& box) {
    const int64_t axis = op.as<ir::AxisAttrs>().axis;
    int64_t at = 0;  // where this operand begins along the axis
    for (const ir::Value* part : op.operands) {
      const int64_t n = shape_of(*part)[axis];
      const int64_t first = std::max(box.begin[axis], at);
      const int64_t last = std::min(box.begin[axis] + box.size[axis], at + n);
      if (first < last) {
        Box sub = box;
        sub.begin[axis] = first - at;
        sub.size[axis] = last - first;
        sub.offset += (first - box.begin[axis]) * box.stride[axis];
        place(*part, sub);
      }
      at += n;
    }
  }

  void place_transpose(const ir::Op& op, Box box) {
    const size_t r = box.size.size();
    for (Sizes* s : {&box.begin, &box.size, &box.stride}) std::swap((*s)[r - 2], (*s)[r - 1]);
    place(*op.operand(0), box);
  }

  void place_reshape(const ir::Op& op, const Box& box) {
    const int64_t element = dtype_bytes(op.result()->type.dtype);
    const bool whole =
        box.size == shape_of(*op.result()) && box.stride == dense_strides(box.size, element);
    if (!whole) unsupported(*op.result());
    Box inner;
    inner.size = shape_of(*op.operand(0));
    inner.begin.assign(inner.size.size(), 0);
    inner.stride = dense_strides(inner.size, element);
    inner.offset = box.offset;
    place(*op.operand(0), inner);
  }

  void place_constant(const ir::Op& op) {
    Constant c{to_, {}};
    for (double v : op.as<ir::ConstantAttrs>().values) c.values.push_back(static_cast<float>(v));
    const auto bytes = static_cast<int64_t>(c.values.size() * sizeof(float));
    add(std::move(c), "constant", bytes, op.loc);
  }

  void place_checkpoint(const ir::Op& op, Box box) {
    const auto& a = op.as<ir::CheckpointAttrs>();
    if (a.stack == 0) return read(op, a.tensor, box, shape_of(*op.result()));
    // One tensor an index of the first axis.
    Box inner = box;
    for (Sizes* s : {&inner.begin, &inner.size, &inner.stride}) s->erase(s->begin());
    Sizes shape = shape_of(*op.result());
    shape.erase(shape.begin());
    for (int64_t i = 0; i < box.size[0]; ++i) {
      std::string name = a.tensor;
      name.replace(name.find('*'), 1, std::to_string(box.begin[0] + i));
      inner.offset = box.offset + i * box.stride[0];
      read(op, name, inner, shape);
    }
  }

  /// Emits Reads for the box of one tensor of `shape`.
  void read(const ir::Op& op, const std::string& tensor, Box box, const Sizes& shape) {
    const int64_t element = dtype_bytes(op.result()->type.dtype);
    const TensorSource source = options_.find_tensor(tensor);
    Sizes from = dense_strides(shape, element);
    int64_t from_offset = source.offset;
    for (size_t i = 0; i < shape.size(); ++i) from_offset += box.begin[i] * from[i];

    Read step;
    step.file = source.file;
    step.tensor = tensor;
    step.to = to_;
    step.element_bytes = element;
    const size_t r = shape.size();
    if (r >= 2 && box.stride[r - 1] != element && box.stride[r - 2] == element) {
      if (r != 2 || box.size != shape || box.stride[1] != shape[0] * element)
        unsupported(*op.result());
      step.transpose_rows = step.rows = shape[0];
      step.row_bytes = step.from_pitch = shape[1] * element;
      step.to_pitch = shape[0] * element;
      step.from_offset = from_offset;
      step.to.offset += box.offset;
      return add(step, "read.transpose", shape[0] * shape[1] * element, op.loc);
    }
    // Merge axes that are contiguous on both sides, innermost first; what is left is rows, and
    // loops around them.
    int64_t run = element;
    size_t axis = r;
    while (axis > 0 && from[axis - 1] == run && box.stride[axis - 1] == run)
      run *= box.size[--axis];
    step.row_bytes = run;
    step.rows = axis > 0 ? box.size[axis - 1] : 1;
    step.from_pitch = axis > 0 ? from[axis - 1] : run;
    step.to_pitch = axis > 0 ? box.stride[axis - 1] : run;
    rows(op, step, box, from, axis == 0 ? 0 : axis - 1, 0, from_offset, box.offset);
  }

  void rows(const ir::Op& op, Read step, const Box& box, const Sizes& from, size_t outer,
            size_t axis, int64_t from_offset, int64_t to_offset) {
    if (axis == outer) {
      step.from_offset = from_offset;
      step.to.offset += to_offset;
      return add(step, "read", step.rows * step.row_bytes, op.loc);
    }
    for (int64_t i = 0; i < box.size[axis]; ++i) {
      rows(op, step, box, from, outer, axis + 1, from_offset + i * from[axis],
           to_offset + i * box.stride[axis]);
    }
  }

  void add(StepKind what, std::string name, int64_t bytes, const std::string& loc) {
    Step step;
    step.what = std::move(what);
    step.name = std::move(name);
    step.loc = loc;
    step.bytes = DimExpr(bytes);
    step.writes = {to_.index};
    steps.push_back(std::move(step));
  }

  const Arg& to_;
  const LowerOptions& options_;
};

const ir::Op* find_dummy(const ir::Value& value) {
  if (value.def == nullptr) return nullptr;
  if (value.def->kind == OpKind::dummy) return value.def;
  for (const ir::Value* v : value.def->operands) {
    if (const ir::Op* dummy = find_dummy(*v)) return dummy;
  }
  return nullptr;
}

}  // namespace

std::vector<Step> lower_store(const ir::Value& value, const Arg& to, const LowerOptions& options,
                              const std::function<void(const ir::Op&)>& emit_dummy) {
  if (const ir::Op* dummy = find_dummy(value)) {
    emit_dummy(*dummy);
    return {};
  }
  Box whole;
  whole.size = shape_of(value);
  whole.begin.assign(whole.size.size(), 0);
  whole.stride = dense_strides(whole.size, dtype_bytes(value.type.dtype));
  StoreLowering lowering(to, options);
  lowering.place(value, whole);
  return std::move(lowering.steps);
}

}  // namespace shunt::codegen
