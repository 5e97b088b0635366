// Runs passes: everything that is not the transformation itself (order of stages, sweep, verify,
// dump, time).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "passes/pass.h"

namespace shunt::passes {

/// What one pass did, for `shunt compile` to print.
struct PassRecord {
  std::string name;
  bool changed = false;
  double seconds = 0;  // of the pass, its sweep and its verification
};

/// The whole compiler between a frontend and code generation, in order. Lives as long as the
/// program.
std::span<const Pass> pipeline();

/// Runs `passes` on `module` and returns a record for each that ran. After a pass that changed
/// something: dead ops, parameters and states are swept, the module is verified, and its text goes
/// to options.dump_dir. Throws UserError for a name in `skip` or `stop_after` that no pass has (the
/// message lists the passes), for an input module that does not verify and for a folder that cannot
/// be written; InternalError naming the pass for a module that is wrong after it, for a wrong stage
/// and for a pass that lies about `changed`.
std::vector<PassRecord> run_passes(ir::Module& module, std::span<const Pass> passes,
                                   const PassContext& context);

/// run_passes over the pipeline() with the roofline cost model.
std::vector<PassRecord> run_pipeline(ir::Module& module, const Target& target,
                                     const PassOptions& options);

}  // namespace shunt::passes
