// Random trees of @load ops, cut up for three ranks: the reads, carried out on an array, give what
// the evaluator says.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>

#include "codegen/lower_load.h"
#include "ir/reference/evaluator.h"
#include "ir/target.h"
#include "tests/meshes/dice.h"

namespace shunt::codegen {
namespace {

using ir::OpKind;
using ir::Value;
using Shape = std::vector<int64_t>;

constexpr Mesh kMesh{1, 3, 1, 3};

Shape shape_of(const Value& v) {
  Shape shape;
  for (const Dim& d : v.type.shape) shape.push_back(d.constant());
  return shape;
}

class TreeDraw {
 public:
  TreeDraw(ir::Module& module, Dice& dice)
      : load_(module.add_graph("load")), builder_(load_), dice_(dice) {}

  Value* draw() {
    Shape shape;
    for (int64_t rank = dice_.number(1, 4); rank > 0; --rank) shape.push_back(dice_.number(1, 6));
    Value* v = tensor(shape);
    for (int64_t ops = dice_.number(1, 7); ops > 0; --ops) v = grown(v);
    return v;
  }

 private:
  Value* tensor(const Shape& shape) {
    const bool stack = shape.size() > 1 && dice_.one_in(3);
    const std::string name = fmt::format("t{}{}", tensors_++, stack ? ".*" : "");
    return builder_.value(
        OpKind::checkpoint, {},
        ir::CheckpointAttrs{name, stack ? shape[0] : 0, DType::f32, {shape.begin(), shape.end()}});
  }

  Value* grown(Value* v) {
    const Shape shape = shape_of(*v);
    const int64_t axis = dice_.number(0, static_cast<int64_t>(shape.size()) - 1);
    const int64_t size = shape[static_cast<size_t>(axis)];
    switch (dice_.number(0, 4)) {
      case 0: {
        const int64_t begin = dice_.number(0, size - 1);
        return builder_.value(OpKind::slice, {v},
                              ir::SliceAttrs{axis, begin, dice_.number(begin + 1, size)});
      }
      case 1: return reshaped(v, shape);
      case 2: return shape.size() < 2 ? v : builder_.value(OpKind::transpose, {v});
      case 3: return joined(v, shape, axis);
      default: return cut(v, axis, size);
    }
  }

  /// Two neighbouring axes as one, or one as two.
  Value* reshaped(Value* v, Shape shape) {
    const auto at = dice_.number(0, static_cast<int64_t>(shape.size()) - 1);
    int64_t& size = shape[static_cast<size_t>(at)];
    if (at > 0 && dice_.coin()) {
      shape[static_cast<size_t>(at - 1)] *= size;
      shape.erase(shape.begin() + at);
    } else {
      Shape factors;
      for (int64_t f = 1; f <= size; ++f) {
        if (size % f == 0) factors.push_back(f);
      }
      const int64_t factor = dice_.one_of(factors);
      size /= factor;
      shape.insert(shape.begin() + at, factor);
    }
    return builder_.value(OpKind::reshape, {v}, ir::ReshapeAttrs{{shape.begin(), shape.end()}});
  }

  Value* joined(Value* v, Shape shape, int64_t axis) {
    shape[static_cast<size_t>(axis)] = dice_.number(1, 4);
    std::vector<Value*> parts = {v, tensor(shape)};
    if (dice_.coin()) std::swap(parts[0], parts[1]);
    return builder_.value(OpKind::concat, parts, ir::AxisAttrs{axis});
  }

  /// Up to two runs for each rank, some of them of nothing.
  Value* cut(Value* v, int64_t axis, int64_t size) {
    ir::ShardAttrs a{axis, MeshAxis::tp, 1, {}};
    for (int r = 0; r < kMesh.tp; ++r) {
      ir::Runs& runs = a.runs.emplace_back();
      int64_t at = 0, count = 0;
      for (int64_t n = dice_.number(0, 2); n > 0 && at < size; --n) {
        const int64_t begin = dice_.number(at, size - 1);
        at = dice_.number(begin + 1, size);
        runs.insert(runs.end(), {begin, at});
        count += at - begin;
      }
      a.size = std::max(a.size, count);
    }
    if (dice_.one_in(3)) ++a.size;
    return builder_.value(OpKind::shard, {v}, a);
  }

  ir::Graph& load_;
  ir::GraphBuilder builder_;
  Dice& dice_;
  int tensors_ = 0;
};

/// Element i of a tensor; no two elements of all tensors are alike.
float element(int file, int64_t i) { return static_cast<float>(1 + file * 8192 + i); }

class Files {
 public:
  int of(const std::string& name) {
    return files_.try_emplace(name, static_cast<int>(files_.size())).first->second;
  }

 private:
  std::map<std::string, int> files_;
};

/// What the steps leave in a parameter that held NaN.
std::vector<float> carried_out(const Value& value, int rank, Files& files) {
  const LowerOptions options{find_target("cpu"), {}, [&](const std::string& name) {
                               return TensorSource{files.of(name), 0, 0};
                             }};
  const Arg to{.kind = Arg::Kind::buffer, .index = 0, .dim = {}, .text = {}};
  std::vector<float> memory(static_cast<size_t>(value.type.elements().constant()), NAN);
  for (const Step& step : lower_store(value, to, options, kMesh, rank, nullptr)) {
    if (std::holds_alternative<Fill>(step.what)) {
      memory.assign(memory.size(), 0);
      continue;
    }
    const Read& r = std::get<Read>(step.what);
    for (int64_t row = 0; row < r.rows; ++row) {
      for (int64_t c = 0; c < r.row_bytes / 4; ++c) {
        const int64_t from =
            r.from_offset + row * r.from_pitch + c * (r.from_stride == 0 ? 4 : r.from_stride);
        const int64_t at = r.transpose_rows > 0 ? r.to.offset + c * r.to_pitch + row * 4
                                                : r.to.offset + row * r.to_pitch + c * 4;
        memory.at(static_cast<size_t>(at / 4)) = element(r.file, from / 4);
      }
    }
  }
  return memory;
}

TEST(RandomLoad, ReadsGiveWhatTheEvaluatorSays) {
  for (uint64_t draw = 0; draw < 2000; ++draw) {
    Dice dice(draw);
    ir::Module module;
    module.stage = ir::Stage::placed;
    module.mesh = kMesh;
    Value* value = TreeDraw(module, dice).draw();
    ir::Graph& load = *module.find_graph("load");
    ir::GraphBuilder(load).op(OpKind::store, {value, module.add_param("w", value->type)});
    Files files;
    const auto read = [&](const std::string& name, DType dtype, const Shape& shape) {
      ir::Tensor t = ir::Tensor::make({dtype, {shape.begin(), shape.end()}});
      for (size_t i = 0; i < t.f.size(); ++i)
        t.f[i] = element(files.of(name), static_cast<int64_t>(i));
      return t;
    };
    std::vector<std::vector<float>> want(static_cast<size_t>(kMesh.size()));
    ir::Evaluator evaluator(module, {1, read});
    evaluator.run_ranks("load", {}, std::vector<ir::Evaluator::Tensors>(want.size()),
                        [&](int rank, const Value& v, const ir::Tensor& t) {
                          if (&v == value) want[static_cast<size_t>(rank)] = t.f;
                        });
    for (int rank = 0; rank < kMesh.size(); ++rank) {
      ASSERT_EQ(carried_out(*value, rank, files), want[static_cast<size_t>(rank)])
          << "draw " << draw << ", rank " << rank << "\n"
          << ir::print(module);
    }
  }
}

}  // namespace
}  // namespace shunt::codegen
