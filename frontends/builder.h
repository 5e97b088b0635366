// From an Architecture to a logical module: the graphs @load, @step and @sample of a decoder.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "frontends/architecture.h"
#include "frontends/frontend.h"
#include "ir/module.h"

namespace shunt {

class TensorSource;

struct BuildOptions {
  FrontendLimits limits;
  DType activation = DType::bf16;
  bool force_routing = false;
  TensorSource* source = nullptr;  // nullptr: the checkpoint's own names
};

struct BuiltModule {
  std::unique_ptr<ir::Module> module;
  std::vector<UnusedTensor> unused_tensors;
};

/// `checkpoint` nullptr: dummy weights. Throws UserError for tensors that do not fit.
BuiltModule build_module(const Architecture& arch, const Checkpoint* checkpoint,
                         const BuildOptions& options);

}  // namespace shunt
