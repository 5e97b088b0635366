// The passes, in pipeline order. Each is described, as `before => after`, at the top of its own
// file.
#pragma once

#include "passes/pass.h"

namespace shunt::passes {

bool place(ir::Module& module, const PassContext& context);
bool merge_qkv(ir::Module& module, const PassContext& context);
bool fuse_glu(ir::Module& module, const PassContext& context);
bool fuse_combine_residual(ir::Module& module, const PassContext& context);
bool fuse_add_norm(ir::Module& module, const PassContext& context);
bool fuse_linear_epilogue(ir::Module& module, const PassContext& context);
bool fuse_norm_gate(ir::Module& module, const PassContext& context);
bool fuse_rope_append(ir::Module& module, const PassContext& context);
bool split_regimes(ir::Module& module, const PassContext& context);
bool choose_routing(ir::Module& module, const PassContext& context);

}  // namespace shunt::passes
