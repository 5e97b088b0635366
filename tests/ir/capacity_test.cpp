// topk_gate with a capacity, on the evaluator, against DeepSpeed's own gate
// (tests/data/deepspeed/gates.json: cases of top-1, top-2 and top-k).
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "ir/reference/capacity.h"
#include "ir/reference/evaluator.h"
#include "runtime/checkpoint/file_reader.h"
#include "runtime/checkpoint/safetensors.h"
#include "tests/paths.h"

namespace shunt {
namespace {

using ir::Drop;
using ir::RouteNorm;
using ir::TopkGateAttrs;

const std::string kFolder = std::string(source_dir()) + "/tests/data/deepspeed/";

struct Case {
  std::string name;
  TopkGateAttrs gate;
  int64_t tokens = 0, experts = 0, capacity = 0;
  std::vector<float> logits, combine, aux;
  std::vector<int64_t> counts;
};

std::vector<Case> load_cases() {
  std::ifstream stream(kFolder + "gates.json");
  const nlohmann::json json = nlohmann::json::parse(stream);
  const FileReader file(kFolder + "gates.safetensors");
  const SafetensorsHeader header = read_safetensors_header(file);
  const auto read = [&](const std::string& name, auto& out) {
    for (const TensorInfo& t : header.tensors) {
      if (t.name != name) continue;
      out.resize(static_cast<size_t>(t.bytes) / sizeof(out[0]));
      file.read(t.offset, std::as_writable_bytes(std::span(out)));
      return;
    }
    FAIL() << name;
  };
  std::vector<Case> cases;
  for (const auto& j : json) {
    Case& c = cases.emplace_back();
    c.name = j.at("name");
    c.tokens = j.at("tokens");
    c.experts = j.at("experts");
    c.capacity = j.at("capacity");
    EXPECT_FALSE(j.at("use_rts").get<bool>() || j.at("second_expert_sampling").get<bool>());
    c.gate.k = j.at("k");
    c.gate.norm = c.gate.k == 1 ? RouteNorm::none : RouteNorm::sum;
    c.gate.norm_min = c.gate.k == 1 ? 0 : 0x1p-23;
    if (j.at("drop_tokens").get<bool>()) {
      c.gate.drop = c.gate.k > 2 ? Drop::score : Drop::order;
      c.gate.capacity_factor = j.at("capacity_factor");
      c.gate.min_capacity = j.at("min_capacity");
    }
    read(c.name + ".logits", c.logits);
    read(c.name + ".combine", c.combine);
    read(c.name + ".counts", c.counts);
    read(c.name + ".aux", c.aux);
  }
  return cases;
}

/// The module of one gate, its attributes as text.
std::unique_ptr<ir::Module> gate_module(const Case& c) {
  ir::Module source;
  source.name = "gate";
  source.dims = {{"T", 1, 256}, {"S", 1, 4}, {"R", 1, 4}};
  ir::Graph& graph = source.add_graph("step");
  ir::GraphBuilder b(graph);
  ir::Value* logits = b.input("l", {DType::f32, {Dim::symbol("T"), c.experts}});
  const ir::Op* op = b.op(ir::OpKind::topk_gate, {logits}, c.gate, {"w", "ids"});
  graph.outputs = {op->result(0), op->result(1)};
  auto module = ir::parse(ir::print(source));
  ir::verify(*module);
  return module;
}

TEST(Capacity, EveryCaseOfDeepSpeed) {
  const std::vector<Case> cases = load_cases();
  ASSERT_GE(cases.size(), 15u);
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    // Softmax and the k best, before any dropping.
    Case plain = c;
    plain.gate.norm = RouteNorm::none;
    plain.gate.drop = Drop::none;
    plain.gate.capacity_factor = 0;
    plain.gate.min_capacity = 0;
    const auto raw_module = gate_module(plain);
    ir::Evaluator raw(*raw_module, {});
    const std::map<std::string, ir::Tensor> in = {
        {"l", ir::Tensor{{DType::f32, {c.tokens, c.experts}}, c.logits, {}}}};
    const DimEnv dims = {{"T", c.tokens}};
    const auto routes = raw.run("step", dims, in);
    std::vector<float> w = routes.at("w").f;
    std::vector<int32_t> ids = routes.at("ids").i;
    const ir::RouteReport report = ir::drop_routes(c.gate, c.tokens, c.experts, c.logits.data(),
                                                   nullptr, w.data(), ids.data());
    EXPECT_EQ(report.capacity, c.capacity);
    EXPECT_EQ(report.counts, c.counts);
    EXPECT_NEAR(report.aux_loss, c.aux[0], 1e-6 * std::max(1.0, std::fabs(report.aux_loss)));
    std::vector<float> combine(c.combine.size(), 0);
    for (size_t r = 0; r < ids.size(); ++r) {
      if (ids[r] < 0) continue;
      const int64_t t = static_cast<int64_t>(r) / c.gate.k;
      combine.at(static_cast<size_t>((t * c.experts + ids[r]) * c.capacity + report.slots[r])) =
          w[r];
    }
    for (size_t i = 0; i < combine.size(); ++i) ASSERT_NEAR(combine[i], c.combine[i], 1e-6) << i;

    // The op gives the same weights and ids.
    const auto module = gate_module(c);
    ir::Evaluator evaluator(*module, {});
    const auto out = evaluator.run("step", dims, in);
    EXPECT_EQ(out.at("ids").i, ids);
    for (size_t r = 0; r < w.size(); ++r) ASSERT_NEAR(out.at("w").f[r], w[r], 1e-6);
  }
}

TEST(Capacity, Float32DecidesTheCeiling) {
  TopkGateAttrs a;
  a.capacity_factor = 1.1;
  EXPECT_EQ(ir::expert_capacity(a, 40, 4), 11);  // 10 * 1.1 is 11.000000000000002 in float64
  a.min_capacity = 13;
  EXPECT_EQ(ir::expert_capacity(a, 40, 4), 13);
}

}  // namespace
}  // namespace shunt
