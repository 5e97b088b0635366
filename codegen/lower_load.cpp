// A store's operand is a small tree of checkpoint / dequantize / slice / concat / transpose /
// reshape ops. Walking it from the parameter down, a Box says which part of a value goes where; at
// a checkpoint tensor the box becomes Read steps. Entry point lower_store(); tested by
// tests/codegen/lower_load_test.cpp.
#include "codegen/lower_load.h"

#include <algorithm>

#include "ir/error.h"

namespace shunt::codegen {

namespace {

using ir::OpKind;
using Sizes = std::vector<int64_t>;

/// `size` elements of a value along each axis, from `begin` on, `step` apart, and where they go:
/// `offset` bytes into the parameter, `stride` bytes from one to the next along each axis.
struct Box {
  Sizes begin, size, step, stride;
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
  StoreLowering(const Arg& to, const LowerOptions& options, const Mesh& mesh, int rank)
      : to_(to), options_(options), mesh_(mesh), rank_(rank) {}

  std::vector<Step> steps;
  bool padded = false;  // some of the parameter is zero on this rank

  void place(const ir::Value& v, const Box& box) {
    const ir::Op* op = v.def;
    if (op == nullptr) unsupported(v);
    switch (op->kind) {
      case OpKind::checkpoint: return place_checkpoint(*op, box);
      case OpKind::dequantize: return place_matrices(*op, box, {});
      case OpKind::constant: return place_constant(*op, box);
      case OpKind::slice: return place_slice(*op, box);
      case OpKind::shard: return place_shard(*op, box);
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

  /// The runs of this rank, one after another. What lies behind them is zero, by a fill before all
  /// reads.
  void place_shard(const ir::Op& op, const Box& box) {
    const auto& a = op.as<ir::ShardAttrs>();
    const auto axis = static_cast<size_t>(a.axis);
    if (box.step[axis] != 1) return place_each(op, box, a.axis);
    const ir::Runs& runs = a.runs[static_cast<size_t>(mesh_.index(a.over, rank_))];
    const int64_t end = box.begin[axis] + box.size[axis];
    int64_t at = 0;  // where this run begins on the rank
    for (size_t i = 0; i < runs.size(); i += 2) {
      const int64_t n = runs[i + 1] - runs[i];
      const int64_t first = std::max(box.begin[axis], at), last = std::min(end, at + n);
      if (first < last) {
        Box sub = box;
        sub.begin[axis] = runs[i] + first - at;
        sub.size[axis] = last - first;
        sub.offset += (first - box.begin[axis]) * box.stride[axis];
        place(*op.operand(0), sub);
      }
      at += n;
    }
    padded = padded || at < end;
  }

  void place_concat(const ir::Op& op, const Box& box) {
    const int64_t axis = op.as<ir::AxisAttrs>().axis;
    if (box.step[axis] != 1) return place_each(op, box, axis);
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
    for (Sizes* s : {&box.begin, &box.size, &box.step, &box.stride})
      std::swap((*s)[r - 2], (*s)[r - 1]);
    place(*op.operand(0), box);
  }

  void place_reshape(const ir::Op& op, const Box& box) {
    const ir::Op* from = op.operand(0)->def;
    // A tensor's bytes may be seen in any shape.
    if (from != nullptr && from->kind == OpKind::checkpoint &&
        from->as<ir::CheckpointAttrs>().stack == 0)
      return read(*from, from->as<ir::CheckpointAttrs>().tensor, box, shape_of(*op.result()));
    const Sizes out = shape_of(*op.result()), in = shape_of(*op.operand(0));
    Box inner;
    inner.offset = box.offset;
    // Axes of both shapes in groups of equal size.
    for (size_t o = 0, i = 0; o < out.size() || i < in.size();) {
      const size_t first_o = o, first_i = i;
      int64_t have = o < out.size() ? out[o++] : 1, need = i < in.size() ? in[i++] : 1;
      while (have != need) {
        if (have < need)
          have *= out[o++];
        else
          need *= in[i++];
      }
      Axis axis;
      if (!merge(out, box, first_o, o, &axis) || !split(in, first_i, i, axis, inner))
        return place_first(op, box, first_o, o);
    }
    place(*op.operand(0), inner);
  }

  /// Part of one axis: where it begins, its size, from one index to the next, and the bytes between
  /// them in the parameter.
  struct Axis {
    int64_t begin = 0, size = 1, step = 1, stride = 0;
  };

  /// The box's part of axes [first, last) as part of one axis, if it is that.
  static bool merge(const Sizes& shape, const Box& box, size_t first, size_t last, Axis* axis) {
    for (size_t k = first; k < last; ++k) {
      if (shape[k] == 1) continue;
      Axis mine{box.begin[k], box.size[k], box.step[k], box.stride[k]};
      const Axis outer{axis->begin * shape[k], axis->size, axis->step * shape[k], axis->stride};
      if (outer.size == 1) {
        mine.begin += outer.begin;
        *axis = mine;
      } else if (mine.size == 1) {
        *axis = outer;
        axis->begin += mine.begin;
      } else {  // one after another only if all of the inner axis is taken
        const bool whole = mine.begin == 0 && mine.size == shape[k] && outer.step == shape[k];
        if (!whole || outer.stride != mine.stride * shape[k]) return false;
        *axis = {outer.begin, outer.size * mine.size, 1, mine.stride};
      }
    }
    return true;
  }

  /// Adds axes [first, last) of a shape to the box: together they are `axis`.
  static bool split(const Sizes& shape, size_t first, size_t last, Axis axis, Box& box) {
    const auto at = static_cast<std::ptrdiff_t>(box.size.size());
    const auto add = [&](const Axis& mine) {
      box.begin.insert(box.begin.begin() + at, mine.begin);
      box.size.insert(box.size.begin() + at, mine.size);
      box.step.insert(box.step.begin() + at, mine.step);
      box.stride.insert(box.stride.begin() + at, mine.stride);
    };
    for (size_t k = last; k-- > first;) {
      const int64_t n = shape[k], begin = axis.begin % n;
      const int64_t end = begin + (axis.size - 1) * axis.step;  // the last index
      if (end < n) {  // all of it lies in this axis, under one index of the outer ones
        add({begin, axis.size, axis.size == 1 ? 1 : axis.step, axis.stride});
        axis = {axis.begin / n, 1, 1, 0};
      } else if (axis.step % n == 0) {  // one index of this axis
        add({begin, 1, 1, 0});
        axis = {axis.begin / n, axis.size, axis.step / n, axis.stride};
      } else {  // whole rows of this axis
        if (axis.step != 1 || begin != 0 || axis.size % n != 0) return false;
        add({0, n, 1, axis.stride});
        axis = {axis.begin / n, axis.size / n, 1, axis.stride * n};
      }
    }
    return true;
  }

  /// The same for every index of the box along the first of axes [first, last) with more than one.
  void place_first(const ir::Op& op, const Box& box, size_t first, size_t last) {
    for (size_t k = first; k < last; ++k) {
      if (box.size[k] > 1) return place_each(op, box, static_cast<int64_t>(k));
    }
    unsupported(*op.result());
  }

  void place_each(const ir::Op& op, const Box& box, int64_t axis) {
    for (int64_t i = 0; i < box.size[axis]; ++i) {
      Box one = box;
      one.begin[axis] += i * box.step[axis];
      one.size[axis] = one.step[axis] = 1;
      one.offset += i * box.stride[axis];
      place(*op.result(), one);
    }
  }

  void place_constant(const ir::Op& op, const Box& box) {
    const auto& values = op.as<ir::ConstantAttrs>().values;
    if (box.size[0] > 1 && box.stride[0] != static_cast<int64_t>(sizeof(float)))
      return place_each(op, box, 0);
    Constant c{to_, {}};
    c.to.offset += box.offset;
    for (int64_t i = 0; i < box.size[0]; ++i)
      c.values.push_back(
          static_cast<float>(values[static_cast<size_t>(box.begin[0] + i * box.step[0])]));
    const auto bytes = static_cast<int64_t>(c.values.size() * sizeof(float));
    add(std::move(c), "constant", bytes, op.loc);
  }

  void place_checkpoint(const ir::Op& op, Box box) {
    const auto& a = op.as<ir::CheckpointAttrs>();
    if (a.stack == 0) return read(op, a.tensor, box, shape_of(*op.result()));
    // One tensor an index of the first axis.
    Box inner = box;
    for (Sizes* s : {&inner.begin, &inner.size, &inner.step, &inner.stride}) s->erase(s->begin());
    Sizes shape = shape_of(*op.result());
    shape.erase(shape.begin());
    for (int64_t i = 0; i < box.size[0]; ++i) {
      std::string name = a.tensor;
      name.replace(name.find('*'), 1, std::to_string(box.begin[0] + i * box.step[0]));
      inner.offset = box.offset + i * box.stride[0];
      read(op, name, inner, shape);
    }
  }

  // ---- quantised weights ----

  /// Matrices of a dequantised value, one at a time; `index` holds those of the first axes.
  void place_matrices(const ir::Op& op, const Box& box, const Sizes& index) {
    const size_t axis = index.size();
    if (axis + 2 == box.size.size()) return place_matrix(op, box, index);
    for (int64_t i = 0; i < box.size[axis]; ++i) {
      Box one = box;
      one.offset += i * box.stride[axis];
      Sizes next = index;
      next.push_back(box.begin[axis] + i * box.step[axis]);
      place_matrices(op, one, next);
    }
  }

  void place_matrix(const ir::Op& op, const Box& box, const Sizes& index) {
    const auto& a = op.as<ir::DequantizeAttrs>();
    const int64_t e = dtype_bytes(a.dtype);
    const size_t r = box.size.size() - 2, c = r + 1;
    const Read payload = locate(op, 0, index), scale = locate(op, 1, index);
    Read step;
    step.file = payload.file;
    step.tensor = payload.tensor;
    step.from_offset = payload.from_offset;
    step.from_pitch = payload.from_pitch;
    step.to = to_;
    step.to.offset += box.offset;
    step.element_bytes = e;
    step.rows = box.size[r];
    step.row_bytes = box.size[c] * e;
    step.dequantize = Dequantize{op.operand(0)->type.dtype,
                                 op.operand(1)->type.dtype,
                                 a.dtype,
                                 scale.file,
                                 scale.tensor,
                                 scale.from_offset,
                                 scale.from_pitch,
                                 a.group_rows,
                                 a.group_columns,
                                 box.begin[r],
                                 box.step[r],
                                 box.begin[c],
                                 box.step[c]};
    if (box.stride[c] == e || box.size[c] == 1) {
      step.to_pitch = std::max(box.stride[r], step.row_bytes);
      return add(step, "read.dequantize", step.rows * step.row_bytes, op.loc);
    }
    step.to_pitch = box.stride[c];
    if (box.stride[r] == e) {
      step.transpose_rows = step.rows;
      return add(step, "read.dequantize", step.rows * step.row_bytes, op.loc);
    }
    step.rows = step.transpose_rows = 1;
    for (int64_t i = 0; i < box.size[r]; ++i) {
      step.to.offset = to_.offset + box.offset + i * box.stride[r];
      step.dequantize->first_row = box.begin[r] + i * box.step[r];
      add(step, "read.dequantize", step.row_bytes, op.loc);
    }
  }

  /// Where one matrix of a dequantisation's operand lies: file, offset, and bytes from one of its
  /// rows to the next. Each must be stored whole, in rows.
  Read locate(const ir::Op& op, size_t operand, const Sizes& index) {
    const ir::Value& value = *op.operand(operand);
    const int64_t e = dtype_bytes(value.type.dtype);
    Box box;
    box.size = shape_of(value);
    box.step.assign(box.size.size(), 1);
    box.stride = dense_strides(box.size, e);
    box.begin.assign(box.size.size(), 0);
    for (size_t i = 0; i < index.size(); ++i) {
      box.begin[i] = index[i];
      box.size[i] = 1;
    }
    const int64_t rows = box.size.end()[-2], columns = box.size.back();
    StoreLowering walk(to_, options_, mesh_, rank_);
    walk.place(value, box);
    const Read* read = walk.steps.size() == 1 ? std::get_if<Read>(&walk.steps[0].what) : nullptr;
    if (read == nullptr || read->dequantize || read->transpose_rows != 0) unsupported(value);
    Read found = *read;
    if (columns == 1 && found.from_stride != 0) {  // one column of a wider tensor
      found.from_pitch = found.from_stride;
    } else if (found.from_stride != 0) {
      unsupported(value);
    } else if (found.rows == 1) {  // dense
      found.from_pitch = columns * e;
    } else if (found.rows != rows) {
      unsupported(value);
    }
    return found;
  }

  /// An axis of a box: how many, and bytes from one to the next in the file and in memory.
  struct Run {
    int64_t size, from, to;
  };

  /// Emits Reads for the box of one tensor of `shape`.
  void read(const ir::Op& op, const std::string& tensor, const Box& box, const Sizes& shape) {
    const int64_t element = dtype_bytes(op.result()->type.dtype);
    const TensorSource source = options_.find_tensor(tensor);
    const Sizes from = dense_strides(shape, element);
    Read step;
    step.file = source.file;
    step.tensor = tensor;
    step.to = to_;
    step.element_bytes = element;
    int64_t from_offset = source.offset;
    // Axes of more than one index, outermost first; neighbours that are dense on both sides as one.
    std::vector<Run> runs;
    for (size_t i = 0; i < shape.size(); ++i) {
      from_offset += box.begin[i] * from[i];
      if (box.size[i] == 1) continue;
      const Run mine{box.size[i], box.step[i] * from[i], box.stride[i]};
      if (!runs.empty() && runs.back().from == mine.from * mine.size &&
          runs.back().to == mine.to * mine.size) {
        runs.back() = {runs.back().size * mine.size, mine.from, mine.to};
      } else {
        runs.push_back(mine);
      }
    }
    // What one Read covers: the innermost axis, and rows along another.
    Run columns{1, element, element};
    if (!runs.empty() &&
        (runs.back().to == element || runs.back().from == element || runs.size() > 1)) {
      columns = runs.back();
      runs.pop_back();
    }
    Run rows{1, columns.from * columns.size, columns.to * columns.size};
    const char* name = "read";
    if (columns.to == element) {
      if (!runs.empty()) {
        rows = runs.back();
        runs.pop_back();
      }
      step.to_pitch = rows.to;
    } else {
      name = "read.transpose";
      const auto dense =
          std::find_if(runs.begin(), runs.end(), [&](const Run& r) { return r.to == element; });
      if (dense != runs.end()) {
        rows = *dense;
        runs.erase(dense);
      }
      step.transpose_rows = rows.size;
      step.to_pitch = columns.to;
    }
    step.rows = rows.size;
    step.from_pitch = rows.from;
    step.row_bytes = columns.size * element;
    if (columns.from != element) step.from_stride = columns.from;
    each(op, name, step, runs, 0, from_offset, box.offset);
  }

  void each(const ir::Op& op, const char* name, Read step, const std::vector<Run>& runs,
            size_t axis, int64_t from_offset, int64_t to_offset) {
    if (axis == runs.size()) {
      step.from_offset = from_offset;
      step.to.offset += to_offset;
      return add(step, name, step.rows * step.row_bytes, op.loc);
    }
    for (int64_t i = 0; i < runs[axis].size; ++i) {
      each(op, name, step, runs, axis + 1, from_offset + i * runs[axis].from,
           to_offset + i * runs[axis].to);
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
  const Mesh& mesh_;
  const int rank_;
};

/// The first op of `kind` among what makes a value, or nullptr.
const ir::Op* find(const ir::Value& value, OpKind kind) {
  if (value.def == nullptr) return nullptr;
  if (value.def->kind == kind) return value.def;
  for (const ir::Value* v : value.def->operands) {
    if (const ir::Op* op = find(*v, kind)) return op;
  }
  return nullptr;
}

/// A number for the part of a dummy that a rank holds: equal parts have equal ones.
int64_t part_number(const ir::Value& value, const Mesh& mesh, int rank) {
  if (value.def == nullptr) return 0;
  int64_t number = 0;
  if (value.def->kind == OpKind::shard) {
    const auto& a = value.def->as<ir::ShardAttrs>();
    const auto position = static_cast<size_t>(mesh.index(a.over, rank));
    number = std::find(a.runs.begin(), a.runs.end(), a.runs[position]) - a.runs.begin();
  }
  for (const ir::Value* v : value.def->operands)
    number = number * mesh.size() + part_number(*v, mesh, rank);
  return number;
}

}  // namespace

bool differs_by_rank(const ir::Value& value) { return find(value, OpKind::shard) != nullptr; }

std::vector<Step> lower_store(const ir::Value& value, const Arg& to, const LowerOptions& options,
                              const Mesh& mesh, int rank,
                              const std::function<void(const ir::Op&)>& emit_dummy) {
  if (const ir::Op* dummy = find(value, OpKind::dummy)) {
    ir::Op part{dummy->kind, dummy->attrs, {}, {}, dummy->loc};
    part.as<ir::DummyAttrs>().seed += part_number(value, mesh, rank) << 32;
    emit_dummy(part);
    return {};
  }
  Box whole;
  whole.size = shape_of(value);
  whole.begin.assign(whole.size.size(), 0);
  whole.step.assign(whole.size.size(), 1);
  whole.stride = dense_strides(whole.size, dtype_bytes(value.type.dtype));
  StoreLowering lowering(to, options, mesh, rank);
  lowering.place(value, whole);
  if (lowering.padded) {
    Step zero;
    zero.what = Fill{to, DimExpr(value.type.bytes()), 0};
    zero.name = "fill.padding";
    zero.loc = value.def->loc;
    zero.bytes = DimExpr(value.type.bytes());
    zero.writes = {to.index};
    lowering.steps.insert(lowering.steps.begin(), std::move(zero));
  }
  return std::move(lowering.steps);
}

}  // namespace shunt::codegen
