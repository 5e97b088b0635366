// Every rule of validate() has a plan that breaks it and nothing else.
#include <gtest/gtest.h>

#include <functional>

#include "ir/error.h"
#include "runtime/plan/plan.h"
#include "tests/runtime/plan/tiny_plan.h"

namespace shunt {
namespace {

using test::TinyPlan;

std::string error_of(const Plan& plan) {
  try {
    validate(plan);
  } catch (const UserError& e) {
    EXPECT_EQ(e.kind(), UserError::Kind::incompatible_plan);
    return e.what();
  }
  return "(valid)";
}

void expect_error(const Plan& plan, const std::string& part) {
  const std::string error = error_of(plan);
  EXPECT_NE(error.find(part), std::string::npos) << "wanted: " << part << "\ngot:    " << error;
}

void broken(const std::string& part, const std::function<void(Plan&)>& edit) {
  Plan plan = test::tiny_plan();
  edit(plan);
  expect_error(plan, part);
}

Launch& launch(Plan& plan, size_t program, size_t step) {
  return std::get<Launch>(plan.programs[program].steps[step].what);
}

/// The tiny plan with its one file and a Read in the load program.
Plan with_read(const std::function<void(Plan&, Read&)>& edit) {
  Plan plan = test::tiny_plan();
  plan.files = {{"model.safetensors", 1000, "00"}};
  Read r;
  r.file = 0;
  r.tensor = "w";
  r.from_offset = 100;
  r.rows = 4;
  r.row_bytes = r.from_pitch = r.to_pitch = 64;
  r.to = TinyPlan::buffer(0);
  edit(plan, r);
  Step s;
  s.name = "read";
  s.what = r;
  plan.programs[0].steps.push_back(s);
  return plan;
}

/// A plan for a GPU: one launch and one matmul over the tiny plan's buffers.
Plan gpu_plan(const std::function<void(Plan&, Launch&, Matmul&)>& edit) {
  TinyPlan tiny;
  Plan& plan = tiny.plan;
  plan.target = "sm_90a";
  plan.kernels = {{"scale", "0123456789abcdef"}};
  plan.programs.resize(4);
  for (Program& p : plan.programs) p.steps.clear();
  Launch l;
  l.kernel = 0;
  l.threads = 128;
  l.grid[0] = DimExpr::parse("ceildiv(T,4)");
  l.args = {TinyPlan::buffer(tiny.h),
            TinyPlan::state(0),
            {.kind = Arg::Kind::dim_ptr, .index = 2, .dim = {}, .text = {}}};
  Matmul m;
  m.x = TinyPlan::buffer(tiny.h);
  m.w = TinyPlan::buffer(tiny.table);
  m.d = tiny.port("logits");
  m.x_type = m.w_type = m.d_type = DType::f32;
  m.m = DimExpr(Dim::symbol("R"));
  m.n = test::kVocab;
  m.k = test::kHidden;
  edit(plan, l, m);
  Step s;
  s.name = "row";
  s.loc = "model.layers.0";
  s.what = l;
  plan.programs[3].steps.push_back(s);
  s.what = m;
  plan.programs[3].steps.push_back(s);
  return plan;
}

/// The same over two ranks, with two buffers of peer memory (the last two) that the launch names.
Plan peer_plan(const std::function<void(Plan&, Launch&)>& edit) {
  return gpu_plan([&](Plan& p, Launch& l, Matmul&) {
    p.mesh.tp = p.mesh.etp = 2;
    p.peer_bytes = 1024;
    p.buffers.push_back({"rows", Arena::peer, 0, 700, {DType::u8, {Dim(700)}}});
    p.buffers.push_back({"flags", Arena::peer, 768, 256, {DType::u8, {Dim(256)}}});
    const int last = static_cast<int>(p.buffers.size()) - 1;
    l.args = {TinyPlan::buffer(last)};
    for (const int buffer : {last - 1, last}) {
      l.args.push_back(
          {.kind = Arg::Kind::peers, .index = buffer, .dim = {}, .text = {}, .over = MeshAxis::tp});
    }
    edit(p, l);
  });
}

TEST(Validate, PeerMemory) {
  EXPECT_EQ(error_of(peer_plan([](Plan&, Launch&) {})), "(valid)");
  const auto broken_peers = [](const std::string& part,
                               const std::function<void(Plan&, Launch&)>& edit) {
    expect_error(peer_plan(edit), part);
  };
  broken_peers("'flags' begins inside of 'rows': peer buffers share no memory",
               [](Plan& p, Launch&) { p.buffers.back().offset = 512; });
  broken_peers("'flags' ends at byte 1024 of an arena of 1000",
               [](Plan& p, Launch&) { p.peer_bytes = 1000; });
  broken_peers("'hidden.0' is not in the peer arena",
               [](Plan&, Launch& l) { l.args[1].index = TinyPlan().h; });
  broken_peers("index 99 is outside buffers", [](Plan&, Launch& l) { l.args[1].index = 99; });
  broken_peers("1 ranks along dp, peer memory is for 2 to 8",
               [](Plan&, Launch& l) { l.args[2].over = MeshAxis::dp; });
  broken_peers("16 ranks along tp", [](Plan& p, Launch&) { p.mesh.tp = p.mesh.etp = 16; });
  broken("peer_bytes: 512: a plan for cpu has no peer memory", [](Plan& p) { p.peer_bytes = 512; });
  broken_peers("peer_bytes: 1024: a plan for one rank has no peer memory",
               [](Plan& p, Launch&) { p.mesh = {}; });
}

TEST(Validate, AcceptsValidPlans) {
  EXPECT_EQ(error_of(test::tiny_plan()), "(valid)");
  EXPECT_EQ(error_of(with_read([](Plan&, Read&) {})), "(valid)");
  EXPECT_EQ(error_of(gpu_plan([](Plan&, Launch&, Matmul&) {})), "(valid)");
}

TEST(Validate, Header) {
  broken("plan.json: format: 99,", [](Plan& p) { p.format = 99; });
  broken("target: 'sm_30' is not a target", [](Plan& p) { p.target = "sm_30"; });
  broken("activation_dtype: 'i32'", [](Plan& p) { p.activation_dtype = "i32"; });
  broken("limits.max_model_len: 0 is outside", [](Plan& p) { p.limits.max_model_len = 0; });
  broken("limits.max_num_seqs: -1", [](Plan& p) { p.limits.max_num_seqs = -1; });
  broken("limits.max_num_batched_tokens: 0", [](Plan& p) { p.limits.max_num_batched_tokens = 0; });
  broken("limits.max_logit_rows: 0", [](Plan& p) { p.limits.max_logit_rows = 0; });
  broken("limits.page_size: 0", [](Plan& p) { p.limits.page_size = 0; });
  broken("model.vocab_size: 0", [](Plan& p) { p.model.vocab_size = 0; });
  broken("model.eos_ids[0]: 16", [](Plan& p) { p.model.eos_ids = {16}; });
  broken("model.bos_id: 16", [](Plan& p) { p.model.bos_id = 16; });
  broken("weights_bytes: -1", [](Plan& p) { p.weights_bytes = -1; });
  broken("io_bytes: ", [](Plan& p) { p.io_bytes = INT64_MAX; });
}

TEST(Validate, Dims) {
  broken("dims[0].name: is empty", [](Plan& p) { p.dims[0].name.clear(); });
  broken("dims[1].name: 'R' is declared twice", [](Plan& p) { p.dims[1].name = "R"; });
  broken("dims[0].min: 5 is outside", [](Plan& p) { p.dims[0].min = 5; });
  broken("dims[0].max: ", [](Plan& p) { p.dims[0].max = int64_t{1} << 40; });
  broken("7 dims, at most 6", [](Plan& p) { p.dims.resize(7); });
  broken("programs[1].dims[2]: T in [1, 99] leaves",
         [](Plan& p) { p.programs[1].dims[2].max = 99; });
  broken("programs[1].dims[0].name: the plan declares no dim 'Q'",
         [](Plan& p) { p.programs[1].dims[0].name = "Q"; });
}

TEST(Validate, FilesStayInside) {
  for (const char* name : {"/etc/passwd", "../x", "a/../../x", ""}) {
    broken("files[0].name: ", [&](Plan& p) { p.files = {{name, 1, ""}}; });
  }
  broken("files[0].size: -1", [](Plan& p) { p.files = {{"x", -1, ""}}; });
}

TEST(Validate, EditedOffsets) {
  broken("buffers[1].offset: 513 is no multiple of 256",
         [](Plan& p) { p.buffers[1].offset = 513; });
  broken("buffers[1].offset: -256", [](Plan& p) { p.buffers[1].offset = -256; });
  broken("buffers[1]: 'head' ends at byte 1280", [](Plan& p) { p.buffers[1].offset = 768; });
  broken("buffers[0].bytes: -1", [](Plan& p) { p.buffers[0].bytes = -1; });
  broken("buffers[0].bytes: ", [](Plan& p) { p.buffers[0].bytes = INT64_MAX; });
  broken("programs[1].steps[0].args[1] (embedding at model): offset 512 is outside buffer 'embed'",
         [](Plan& p) { launch(p, 1, 0).args[1].offset = 512; });
  broken("args[1] (embedding at model): offset -1",
         [](Plan& p) { launch(p, 1, 0).args[1].offset = -1; });
  broken("args[1] (embedding at model): index 99 is outside buffers",
         [](Plan& p) { launch(p, 1, 0).args[1].index = 99; });
  broken("args[1] (embedding at model): index -1",
         [](Plan& p) { launch(p, 1, 0).args[1].index = -1; });
}

TEST(Validate, BuffersHoldTheirTypes) {
  broken("buffers[0].type: uses the dim 'Q'",
         [](Plan& p) { p.buffers[0].type.shape[0] = Dim::symbol("Q"); });
  broken("buffer 'embed' : f32[17, 8] needs 544 bytes in this program and has 512",
         [](Plan& p) { p.buffers[0].type.shape[0] = Dim(17); });
  broken("buffer 'hidden.0' ends at byte 384 of a workspace of 128",
         [](Plan& p) { p.programs[1].workspace_bytes = 128; });
  broken("programs[1].workspace_bytes: ", [](Plan& p) { p.programs[1].workspace_bytes = 1 << 20; });
}

TEST(Validate, StatesAndPorts) {
  broken("states[0].row: size T is not a number",
         [](Plan& p) { p.states[0].row.shape[0] = Dim::symbol("T"); });
  broken("states[0].row: 0 is outside", [](Plan& p) { p.states[0].row.shape[0] = Dim(0); });
  broken("states[0].row: ", [](Plan& p) {
    p.states[0].row.shape = {Dim(int64_t{1} << 40), Dim(int64_t{1} << 40)};
  });
  broken("states: there are slot states and no port 'state_slots'",
         [](Plan& p) { p.states[0].kind = StateKind::slot; });
  broken("states: slot states of all sequences take more than", [](Plan& p) {
    p.limits.max_num_seqs = INT32_MAX;
    p.states[0] = {"l0.conv", {DType::f32, {Dim(1 << 20)}}, StateKind::slot};
  });
  broken("ports[1].role: 'tokens' is empty or used twice",
         [](Plan& p) { p.ports[1].role = "tokens"; });
  broken("ports[0].buffer: index 99", [](Plan& p) { p.ports[0].buffer = 99; });
  broken("ports[0].buffer: 'embed' is not in the io arena", [](Plan& p) { p.ports[0].buffer = 0; });
  const auto counters = [](Type type, int64_t bytes) {
    return [=](Plan& p) {
      p.counters_bytes = 256;
      p.buffers.push_back({"model.layers.0", Arena::counters, 0, bytes, type});
    };
  };
  broken("type: counters are i64[experts], not i32[8]", counters({DType::i32, {Dim(8)}}, 64));
  broken("type: counters are i64[experts], not i64[T]",
         counters({DType::i64, {Dim::symbol("T")}}, 64));
  broken("bytes: 32", counters({DType::i64, {Dim(8)}}, 32));
  broken("'model.layers.0' ends at byte 264 of an arena of 256",
         counters({DType::i64, {Dim(33)}}, 264));
  broken("steps[1].args[5] (kv_append at model): index 2 is outside states",
         [](Plan& p) { launch(p, 1, 1).args[5].index = 2; });
}

TEST(Validate, Kernels) {
  broken("kernels[0].name: 'warp_drive' is not a host kernel",
         [](Plan& p) { p.kernels[0].name = "warp_drive"; });
  broken("kernels[0].digest: a plan for cpu", [](Plan& p) { p.kernels[0].digest = "ab"; });
  broken("programs[1].steps[0].kernel (embedding at model): index 6",
         [](Plan& p) { launch(p, 1, 0).kernel = 6; });
  expect_error(gpu_plan([](Plan& p, Launch&, Matmul&) { p.kernels[0].digest.clear(); }),
               "kernels[0].digest: is empty");
  expect_error(gpu_plan([](Plan& p, Launch&, Matmul&) { p.kernels[0].digest = "../../x"; }),
               "kernels[0].digest: '../../x' is not");
}

TEST(Validate, Programs) {
  broken("programs[2]: two programs are named",
         [](Plan& p) { p.programs[2].name = p.programs[1].name; });
  broken("programs[1].graph: 'train'", [](Plan& p) { p.programs[1].graph = "train"; });
  broken("programs: 2 of them are 'load'", [](Plan& p) {
    p.programs[1].graph = "load";
    p.programs[1].steps.clear();
  });
}

TEST(Validate, SizeExpressions) {
  broken("args[3] (embedding at model): size expression 'Q'",
         [](Plan& p) { launch(p, 1, 0).args[3].dim = DimExpr::parse("Q"); });
  broken("args[3] (embedding at model): ", [](Plan& p) {
    launch(p, 1, 0).args[3].dim = DimExpr::parse("T*999999999999999999*999999999");
  });
  broken("args[3] (embedding at model): ",
         [](Plan& p) { launch(p, 1, 0).args[3].dim = DimExpr::parse("ceildiv(T,T-T)"); });
  broken("takes values in [3000000000, 36000000000]", [](Plan& p) {
    launch(p, 3, 0).args[3].dim = DimExpr::parse("3000000000*T");
    launch(p, 3, 0).args[3].kind = Arg::Kind::i32;
  });
  broken("programs[1].steps[0].bytes (embedding at model)",
         [](Plan& p) { p.programs[1].steps[0].bytes = DimExpr(-1); });
  broken("programs[1].steps[0].flops (embedding at model)",
         [](Plan& p) { p.programs[1].steps[0].flops = DimExpr::parse("T-2"); });
  broken("writes[0] (embedding at model): index 99",
         [](Plan& p) { p.programs[1].steps[0].writes = {99}; });
}

TEST(Validate, Expressions) {
  const auto with_expr = [](Plan& p, const char* text) {
    launch(p, 1, 0).args[0] = {.kind = Arg::Kind::expr, .dim = {}, .text = text};
  };
  broken("args[0] (embedding at model): ", [&](Plan& p) { with_expr(p, "silu("); });
  Plan gpu = gpu_plan([](Plan&, Launch& l, Matmul&) { l.args[0].kind = Arg::Kind::expr; });
  expect_error(gpu, "args[0] (row at model.layers.0): only host kernels");
}

TEST(Validate, Launches) {
  const auto edit = [](const std::function<void(Launch&)>& f) {
    return gpu_plan([&](Plan&, Launch& l, Matmul&) { f(l); });
  };
  expect_error(edit([](Launch& l) { l.threads = 0; }),
               "programs[3].steps[0].threads (row at model.layers.0): 0");
  expect_error(edit([](Launch& l) { l.threads = 1025; }), "threads");
  expect_error(edit([](Launch& l) { l.smem = 228 * 1024; }), "smem");
  expect_error(edit([](Launch& l) { l.smem = -1; }), "smem");
  expect_error(edit([](Launch& l) { l.cluster = 17; }), "cluster");
  expect_error(edit([](Launch& l) { l.cluster = 0; }), "cluster");
  expect_error(edit([](Launch& l) { l.grid[0] = DimExpr(0); }),
               "grid[0] (row at model.layers.0): '0' is never positive");
  expect_error(edit([](Launch& l) { l.grid[0] = DimExpr::parse("1-T"); }), "grid[0]");
  expect_error(edit([](Launch& l) { l.grid[1] = DimExpr::parse("10000*T"); }), "grid[1]");
  expect_error(edit([](Launch& l) { l.args.resize(257); }), "257 arguments");
  expect_error(edit([](Launch& l) { l.args[2].index = 3; }),
               "args[2] (row at model.layers.0): index 3 is outside dims");
}

TEST(Validate, Matmuls) {
  const auto edit = [](const std::function<void(Matmul&)>& f) {
    return gpu_plan([&](Plan&, Launch&, Matmul& m) { f(m); });
  };
  expect_error(edit([](Matmul& m) { m.w_type = DType::bf16; }),
               "w_type (row at model.layers.0): bf16 differs");
  expect_error(edit([](Matmul& m) { m.d_type = DType::bf16; }), "d_type");
  expect_error(edit([](Matmul& m) { m.x_type = DType::i32; }), "i32 is not f32, bf16 or f16");
  expect_error(edit([](Matmul& m) { m.n = 0; }), "n (row");
  expect_error(edit([](Matmul& m) { m.k = 0; }), "k (row");
  expect_error(edit([](Matmul& m) { m.m = DimExpr::parse("2*R"); }),
               "d (row at model.layers.0): 512 bytes from offset 0");
  expect_error(edit([](Matmul& m) { m.n = 17; }), "w (row");
  expect_error(edit([](Matmul& m) { m.k = 16; }), "w (row");
  expect_error(edit([](Matmul& m) { m.k = 1 << 30, m.n = 1 << 30; }), "x (row");
  expect_error(edit([](Matmul& m) { m.d = m.w; }),
               "d (row at model.layers.0): writes parameter 'embed'");
  expect_error(edit([](Matmul& m) { m.d = {}; }),
               "d (row at model.layers.0): is not the address of a buffer");
  expect_error(edit([](Matmul& m) { m.workspace_bytes = 1; }), "workspace (row");
  Plan cpu = gpu_plan([](Plan&, Launch&, Matmul&) {});
  cpu.target = "cpu";
  cpu.kernels = {{"linear", ""}};
  expect_error(cpu, "a plan for cpu has no cuBLASLt");
}

TEST(Validate, CopiesAndFills) {
  const auto with = [](StepKind what, bool load = false) {
    Plan plan = test::tiny_plan();
    Step s;
    s.name = "x";
    s.what = std::move(what);
    plan.programs[load ? 0 : 3].steps.push_back(s);
    return plan;
  };
  TinyPlan tiny;
  const Arg h = TinyPlan::buffer(tiny.h), a = TinyPlan::buffer(tiny.a),
            table = TinyPlan::buffer(tiny.table);
  EXPECT_EQ(error_of(with(Copy{h, a, DimExpr::parse("32*T")})), "(valid)");
  expect_error(with(Copy{h, a, DimExpr::parse("33*T")}),
               "from (x at ): 396 bytes from offset 0 leave buffer 'hidden.0'");
  expect_error(with(Copy{table, a, DimExpr(512)}), "to (x at ): 512 bytes");
  expect_error(with(Copy{h, table, DimExpr(4)}),
               "to (x at ): writes parameter 'embed' outside the load program");
  expect_error(with(Copy{TinyPlan::state(0), h, DimExpr(4)}),
               "from (x at ): is not the address of a buffer");
  expect_error(with(Copy{h, a, DimExpr(-1)}), "size (x at )");
  expect_error(with(Fill{h, DimExpr(385), 0}), "to (x at ): 385 bytes");
  expect_error(with(Fill{h, DimExpr(4), 256}), "value (x at ): 256");
  EXPECT_EQ(error_of(with(Fill{table, DimExpr(4), 0}, true)), "(valid)");
  expect_error(with(Constant{table, std::vector<float>(129)}, true), "to (x at ): 516 bytes");
  expect_error(with(Constant{table, {1}}), "kind (x at ): only the load program");
}

TEST(Validate, Reads) {
  const auto edit = [](const std::function<void(Read&)>& f) {
    return with_read([&](Plan&, Read& r) { f(r); });
  };
  expect_error(edit([](Read& r) { r.file = 1; }), "file (read at ): index 1");
  expect_error(edit([](Read& r) { r.from_offset = 745; }),
               "tensor 'w' would be read up to byte 1001 of model.safetensors");
  expect_error(edit([](Read& r) { r.from_offset = INT64_MAX; }), "from_offset");
  expect_error(edit([](Read& r) { r.from_pitch = 63; }), "from_pitch");
  expect_error(edit([](Read& r) { r.to_pitch = 63; }), "to_pitch");
  expect_error(edit([](Read& r) { r.to_pitch = 256; }), "to (read at ): 832 bytes");
  expect_error(edit([](Read& r) { r.from_pitch = 300; }), "from_offset");
  expect_error(edit([](Read& r) { r.rows = -1; }), "rows");
  expect_error(edit([](Read& r) { r.rows = int64_t{1} << 40, r.to_pitch = int64_t{1} << 40; }),
               "to (read at ): its size");
  expect_error(edit([](Read& r) { r.element_bytes = 3; }), "element_bytes");
  expect_error(edit([](Read& r) { r.element_bytes = 8, r.row_bytes = 60; }), "row_bytes");
  expect_error(edit([](Read& r) { r.transpose_rows = 3; }),
               "transpose_rows (read at ): 3 does not fit");
  EXPECT_EQ(error_of(edit([](Read& r) { r.transpose_rows = 4, r.to_pitch = 8; })), "(valid)");
  const auto quantised = [&](const std::function<void(Read&, Dequantize&)>& f) {
    return edit([&](Read& r) {
      // 4 rows of 32 elements of 2 bytes; the file has 1000 bytes.
      r.from_offset = 100, r.from_pitch = 40, r.dequantize.emplace();
      r.dequantize->scale_file = 0, r.dequantize->scale_offset = 900,
      r.dequantize->scale_pitch = 12;
      r.dequantize->group_rows = 2, r.dequantize->group_columns = 16;
      f(r, *r.dequantize);
    });
  };
  EXPECT_EQ(error_of(quantised([](Read&, Dequantize&) {})), "(valid)");
  EXPECT_EQ(error_of(quantised([](Read&, Dequantize& d) { d.first_column = 8; })), "(valid)");
  expect_error(quantised([](Read&, Dequantize& d) { d.first_column = 9; }), "from_pitch");
  expect_error(quantised([](Read&, Dequantize& d) { d.first_row = 1 << 20; }), "from_offset");
  expect_error(quantised([](Read&, Dequantize& d) { d.row_step = 200; }), "from_offset");
  expect_error(quantised([](Read&, Dequantize& d) { d.scale_offset = 990; }),
               "dequantize.scale_offset");
  expect_error(quantised([](Read&, Dequantize& d) { d.scale_pitch = 7; }),
               "dequantize.scale_pitch");
  expect_error(quantised([](Read&, Dequantize& d) { d.group_rows = 0; }), "dequantize.group_rows");
  expect_error(quantised([](Read&, Dequantize& d) { d.scale_file = 1; }), "dequantize.scale_file");
  expect_error(quantised([](Read&, Dequantize& d) { d.payload = DType::bf16; }),
               "dequantize.payload");
  expect_error(quantised([](Read&, Dequantize& d) { d.result = DType::f32; }), "dequantize.result");
  expect_error(quantised([](Read& r, Dequantize&) { r.from_stride = 4; }), "from_stride");
  Plan plan = with_read([](Plan&, Read&) {});
  plan.programs[1].steps.push_back(plan.programs[0].steps.back());
  expect_error(plan, "only the load program");
}

}  // namespace
}  // namespace shunt
