// What a plan contains, for people: sections of lines, the same data as JSON, and a DOT drawing of
// one program.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "ir/module.h"
#include "runtime/plan/plan.h"

namespace shunt {

/// One step of a program, with its sizes at the program's upper bounds.
struct StepRow {
  std::string name;    // row that computes it: "linear.gemv"
  std::string loc;     // "model.layers.3.mlp"
  std::string detail;  // kernel, grid, shape
  int64_t bytes = 0, flops = 0;
};

/// Consecutive layers whose steps are the same are one fold: "layers 0..47".
struct LayerFold {
  std::string title;
  int64_t count = 1;
  std::vector<StepRow> steps;  // of the first layer
};

std::vector<LayerFold> fold_layers(const Plan& plan, const Program& program);
/// The same for a graph of a module; rows are its ops.
std::vector<LayerFold> fold_layers(const ir::Module& module, const ir::Graph& graph);

/// `sections` of summary, layers, kernels, memory, placement, comm. `program` empty: decode for one
/// sequence and the largest prefill.
std::string inspect_text(const Plan& plan, const std::vector<std::string>& sections,
                         const std::string& program);
nlohmann::ordered_json inspect_json(const Plan& plan, const std::vector<std::string>& sections,
                                    const std::string& program);
std::string inspect_dot(const Plan& plan, const std::string& program);

/// Of a .mir file: summary and layers only.
std::string inspect_text(const ir::Module& module, const std::vector<std::string>& sections);
nlohmann::ordered_json inspect_json(const ir::Module& module,
                                    const std::vector<std::string>& sections);
std::string inspect_dot(const ir::Module& module);

}  // namespace shunt
