// The whole compiler between a frontend and code generation, on one page. Entry point: pipeline().
// Tested by tests/passes/runner_test.cpp (the table) and tests/passes/passes_test.cpp (each pass
// and the whole).
#include "passes/passes.h"
#include "passes/runner.h"

namespace shunt::passes {

namespace {

using ir::Stage;

constexpr Pass kPipeline[] = {
    // Before any fusion: a linear without an epilogue can be split either way, and what is fused
    // later is fused on the
    // parts.
    {"place", "Weights, heads and experts are spread over the ranks of the mesh, with collectives.",
     Stage::logical, place},
    // Fewer and larger matmuls first: the fusions below look for one QKV and one gate/up linear,
    // not for five.
    {"merge_qkv", "Three linears of one input that feed an attention become one, with slices.",
     Stage::logical, merge_qkv},
    {"fuse_glu",
     "Gate and up linears and the pointwise op that joins them become one linear with a GLU "
     "epilogue.",
     Stage::logical, fuse_glu},
    // An expert layer's output is added to the residual while routes are combined, which saves a
    // pass over memory
    // and leaves the sum to no one else; so this goes before the norm takes every residual add that
    // it can reach.
    {"fuse_combine_residual", "The residual add after combine_routes becomes its last operand.",
     Stage::logical, fuse_combine_residual},
    {"fuse_add_norm", "A residual add and the norm after it become one op with both results.",
     Stage::logical, fuse_add_norm},
    // After add_norm: a linear's epilogue would otherwise take the residual add and leave the norm
    // to read it again.
    {"fuse_linear_epilogue", "Bias, activation and residual after a linear become its epilogue.",
     Stage::logical, fuse_linear_epilogue},
    // After the epilogues: the router's bias is found there.
    {"fuse_norm_gate", "Residual add, RMS norm, router matmul and top-k become one op.",
     Stage::logical, fuse_norm_gate},
    // After merge_qkv, whose slices it takes over.
    {"fuse_rope_append",
     "QK norm, rotation and the append to the KV cache become one op on the merged QKV.",
     Stage::logical, fuse_rope_append},
    // Everything above is the same for all token counts; what follows is chosen per range of T.
    {"split_regimes", "The step graph is cloned for decode and prefill, and per range of T.",
     Stage::logical, split_regimes},
    {"choose_routing",
     "Where many routes meet at an expert, routes are sorted and experts run as grouped matmuls.",
     Stage::logical, choose_routing},
};

}  // namespace

std::span<const Pass> pipeline() { return kPipeline; }

}  // namespace shunt::passes
