// Text, JSON and DOT of plans and modules. Tested by tests/tools/inspect_test.cpp.
#include "tools/inspect.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "ir/error.h"
#include "tools/inspect_ranks.h"

namespace shunt {

using nlohmann::ordered_json;

namespace {

bool wants(const std::vector<std::string>& sections, std::string_view name) {
  return std::find(sections.begin(), sections.end(), name) != sections.end();
}

/// 1536 bytes as "1.50 KiB", 2e9 operations as "2.00 GFLOP".
std::string scaled(int64_t count, double base, std::initializer_list<const char*> units) {
  double value = static_cast<double>(count);
  const char* const* unit = units.begin();
  for (; value >= base && unit + 1 < units.end(); ++unit) value /= base;
  return fmt::format("{:.{}f} {}", value, unit == units.begin() ? 0 : 2, *unit);
}

std::string size_text(int64_t bytes) {
  return scaled(bytes, 1024, {"B", "KiB", "MiB", "GiB", "TiB"});
}
std::string flops_text(int64_t flops) {
  return scaled(flops, 1000, {"FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"});
}

std::string ranges(const std::vector<DimDecl>& dims) {
  std::string out;
  for (const DimDecl& d : dims)
    out += fmt::format("{}{} in [{}, {}]", out.empty() ? "" : ", ", d.name, d.min, d.max);
  return out;
}

/// The named program; or the smallest decode and the largest prefill.
std::vector<const Program*> choose_programs(const Plan& plan, const std::string& name) {
  std::vector<const Program*> out;
  std::string known;
  for (const Program& p : plan.programs) {
    known += (known.empty() ? "" : ", ") + p.name;
    if (p.name == name) out.push_back(&p);
  }
  if (!name.empty() && out.empty())
    user_error("the plan has no program '{}' (it has: {})", name, known);
  if (!out.empty()) return out;
  const Program *decode = nullptr, *prefill = nullptr;
  for (const Program& p : plan.programs) {
    if (p.graph != "step") continue;
    if (p.decode && decode == nullptr) decode = &p;
    if (!p.decode) prefill = &p;
  }
  for (const Program* p : {decode, prefill}) {
    if (p != nullptr) out.push_back(p);
  }
  return out;
}

ordered_json folds_json(const std::vector<LayerFold>& folds) {
  ordered_json out = ordered_json::array();
  for (const LayerFold& f : folds) {
    ordered_json steps = ordered_json::array();
    for (const StepRow& s : f.steps) {
      steps.push_back({{"name", s.name},
                       {"loc", s.loc},
                       {"detail", s.detail},
                       {"bytes", s.bytes},
                       {"flops", s.flops}});
    }
    out.push_back({{"title", f.title}, {"count", f.count}, {"steps", steps}});
  }
  return out;
}

/// `what`: the last column.
std::string folds_text(const std::vector<LayerFold>& folds, const char* what) {
  const auto line = [](std::string_view name, std::string_view bytes, std::string_view flops,
                       std::string_view loc, std::string_view detail) {
    std::string text =
        fmt::format("    {:<26}{:>12}{:>14}  {:<40} {}", name, bytes, flops, loc, detail);
    return text.erase(text.find_last_not_of(' ') + 1) + "\n";
  };
  std::string out = line("step", "bytes", "flops", "module", what);
  for (const LayerFold& f : folds) {
    out += fmt::format("  {}{}\n", f.title,
                       f.count > 1 ? fmt::format(" ({} identical)", f.count) : "");
    for (const StepRow& s : f.steps) {
      out += line(s.name, size_text(s.bytes), flops_text(s.flops), s.loc, s.detail);
    }
  }
  return out;
}

ordered_json summary_json(const Plan& plan) {
  std::map<std::string, int64_t> by_dtype;
  for (const Buffer& b : plan.buffers) {
    if (b.arena == Arena::weights) by_dtype[std::string(dtype_name(b.type.dtype))] += b.bytes;
  }
  ordered_json programs = ordered_json::array();
  for (const Program& p : plan.programs) {
    programs.push_back({{"name", p.name}, {"dims", ranges(p.dims)}, {"steps", p.steps.size()}});
  }
  ordered_json files = ordered_json::array();
  for (const PlanFile& f : plan.files) files.push_back({{"name", f.name}, {"bytes", f.size}});
  const ModelInfo& m = plan.model;
  return {{"model", m.name},
          {"compiler", plan.compiler},
          {"plan_format", plan.format},
          {"target", plan.target},
          {"activations", plan.activation_dtype},
          {"layers", m.layers},
          {"moe_layers", m.moe_layers},
          {"experts", m.experts},
          {"experts_per_token", m.experts_per_token},
          {"parameters", m.parameters},
          {"active_parameters", m.active_parameters},
          {"weights_bytes", plan.weights_bytes},
          {"weights_bytes_by_dtype", by_dtype},
          {"kv_bytes_per_token", plan.page_bytes() / std::max<int64_t>(1, plan.limits.page_size)},
          {"recurrent_state_bytes_per_sequence", plan.slot_bytes()},
          {"vocab_size", m.vocab_size},
          {"max_model_len", plan.limits.max_model_len},
          {"max_num_seqs", plan.limits.max_num_seqs},
          {"max_num_batched_tokens", plan.limits.max_num_batched_tokens},
          {"page_size", plan.limits.page_size},
          {"checkpoint", plan.model_directory},
          {"files", files},
          {"programs", programs}};
}

std::string value_text(const ordered_json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

/// Objects with the same keys: a line of keys, then one of values each.
std::string json_table(const std::string& name, const ordered_json& rows) {
  std::vector<std::vector<std::string>> lines(1);
  for (const auto& [key, value] : rows[0].items()) lines[0].push_back(key);
  for (const auto& row : rows) {
    auto& line = lines.emplace_back();
    for (const auto& [key, value] : row.items()) line.push_back(value_text(value));
  }
  std::vector<size_t> widths(lines[0].size());
  for (const auto& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  std::string out;
  for (const auto& line : lines) {
    std::string text = fmt::format("  {:<25} ", out.empty() ? name : "");
    for (size_t i = 0; i < line.size(); ++i) text += fmt::format("  {:<{}}", line[i], widths[i]);
    out += text.substr(0, text.find_last_not_of(' ') + 1) + "\n";
  }
  return out;
}

std::string json_lines(const ordered_json& object) {
  std::string out;
  for (const auto& [key, value] : object.items()) {
    if (value.is_array() && !value.empty() && value[0].is_object()) {
      out += json_table(key, value);
    } else if (value.is_array()) {
      for (const auto& item : value) out += fmt::format("  {:<25}   {}\n", key, value_text(item));
    } else if (value != "") {
      out += fmt::format("  {:<25} {}\n", key, value_text(value));
    }
  }
  return out;
}

ordered_json kernels_json(const Plan& plan) {
  std::vector<int64_t> uses(plan.kernels.size(), 0);
  for (const Program& p : plan.programs) {
    for (const Step& s : p.steps) {
      if (const auto* l = std::get_if<Launch>(&s.what)) ++uses[l->kernel];
    }
  }
  ordered_json out = ordered_json::array();
  for (size_t i = 0; i < plan.kernels.size(); ++i) {
    const Kernel& k = plan.kernels[i];
    out.push_back(
        {{"name", k.name}, {"steps", uses[i]}, {"digest", k.is_host() ? "host" : k.digest}});
  }
  return out;
}

ordered_json memory_json(const Plan& plan) {
  ordered_json programs = ordered_json::array();
  for (const Program& p : plan.programs) {
    programs.push_back({{"name", p.name}, {"workspace_bytes", p.workspace_bytes}});
  }
  return {{"weights_bytes", plan.weights_bytes},
          {"workspace_bytes", plan.workspace_bytes},
          {"io_bytes", plan.io_bytes},
          {"peer_bytes", plan.peer_bytes},
          {"kv_page_bytes", plan.page_bytes()},
          {"recurrent_state_bytes_per_sequence", plan.slot_bytes()},
          {"programs", programs}};
}

std::string quoted(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? "\\n" : std::string(1, c);
  }
  return '"' + out + '"';
}

}  // namespace

ordered_json inspect_json(const Plan& plan, const std::vector<std::string>& sections,
                          const std::string& program) {
  ordered_json out = {{"schema", 1}};
  if (wants(sections, "summary")) out["summary"] = summary_json(plan);
  if (wants(sections, "layers")) {
    for (const Program* p : choose_programs(plan, program))
      out["layers"][p->name] = folds_json(fold_layers(plan, *p));
  }
  if (wants(sections, "kernels")) out["kernels"] = kernels_json(plan);
  if (wants(sections, "memory")) out["memory"] = memory_json(plan);
  if (wants(sections, "placement")) out["placement"] = placement_json(plan);
  if (wants(sections, "comm")) {
    out["comm"] = ordered_json::array();
    for (const Program* p : choose_programs(plan, program))
      out["comm"].push_back(comm_json(plan, *p));
  }
  return out;
}

std::string inspect_text(const Plan& plan, const std::vector<std::string>& sections,
                         const std::string& program) {
  std::string out;
  if (wants(sections, "summary")) out += "summary\n" + json_lines(summary_json(plan));
  if (wants(sections, "layers")) {
    for (const Program* p : choose_programs(plan, program)) {
      out +=
          fmt::format("layers of {} ({}; sizes at the upper bounds)\n", p->name, ranges(p->dims));
      out += folds_text(fold_layers(plan, *p), "kernel");
    }
  }
  if (wants(sections, "kernels")) out += "kernels\n" + json_lines({{"kernel", kernels_json(plan)}});
  if (wants(sections, "memory")) out += "memory\n" + json_lines(memory_json(plan));
  if (wants(sections, "placement")) out += "placement\n" + json_lines(placement_json(plan));
  if (wants(sections, "comm")) {
    for (const Program* p : choose_programs(plan, program))
      out += "communication, in the order of every rank\n" + json_lines(comm_json(plan, *p));
  }
  return out;
}

std::string inspect_dot(const Plan& plan, const std::string& program) {
  const Program& p = *choose_programs(plan, program).front();
  std::string out =
      "digraph " + quoted(p.name) + " {\n  rankdir=TB; node [shape=box, fontname=\"monospace\"];\n";
  std::map<int, size_t> writer;
  for (size_t i = 0; i < p.steps.size(); ++i) {
    const Step& s = p.steps[i];
    out += fmt::format("  s{} [label={}];\n", i, quoted(s.name + "\n" + s.loc));
    const auto edge = [&](const Arg& a) {
      if (a.kind != Arg::Kind::buffer) return;
      if (const auto it = writer.find(a.index); it != writer.end() && it->second != i) {
        out += fmt::format("  s{} -> s{} [label={}];\n", it->second, i,
                           quoted(plan.buffers[a.index].name));
      }
    };
    if (const auto* l = std::get_if<Launch>(&s.what)) {
      std::for_each(l->args.begin(), l->args.end(), edge);
    } else if (const auto* m = std::get_if<Matmul>(&s.what)) {
      for (const Arg* a : {&m->x, &m->w, &m->c, &m->bias}) edge(*a);
    }
    for (int b : s.writes) writer[b] = i;
  }
  return out + "}\n";
}

ordered_json inspect_json(const ir::Module& module, const std::vector<std::string>& sections) {
  ordered_json out = {{"schema", 1}};
  int64_t weights = 0;
  for (const ir::Param& p : module.params) weights += p.value->type.bytes().constant();
  if (wants(sections, "summary")) {
    ordered_json graphs = ordered_json::array();
    for (const auto& g : module.graphs)
      graphs.push_back({{"name", g->name}, {"ops", g->ops.size()}});
    out["summary"] = {{"module", module.name},
                      {"dims", ranges(module.dims)},
                      {"parameters", module.params.size()},
                      {"weights_bytes", weights},
                      {"states", module.states.size()},
                      {"graphs", graphs}};
  }
  if (wants(sections, "layers")) {
    for (const auto& g : module.graphs) {
      if (g->name != "load") out["layers"][g->name] = folds_json(fold_layers(module, *g));
    }
  }
  return out;
}

std::string inspect_text(const ir::Module& module, const std::vector<std::string>& sections) {
  std::string out;
  const ordered_json json = inspect_json(module, sections);
  if (json.contains("summary")) out += "summary\n" + json_lines(json["summary"]);
  if (!wants(sections, "layers")) return out;
  for (const auto& g : module.graphs) {
    if (g->name == "load") continue;
    out += fmt::format("layers of {} (sizes at the upper bounds)\n", g->name) +
           folds_text(fold_layers(module, *g), "results and attributes");
  }
  return out;
}

std::string inspect_dot(const ir::Module& module) {
  std::string out = "digraph " + quoted(module.name) +
                    " {\n  rankdir=TB; node [shape=box, fontname=\"monospace\"];\n";
  int number = 0;
  for (const auto& g : module.graphs) {
    if (g->name == "load") continue;
    std::map<const ir::Op*, int> id;
    for (const auto& op : g->ops) {
      id[op.get()] = number;
      out += fmt::format("  n{} [label={}];\n", number++,
                         quoted(std::string(op->info().name) + "\n" + op->loc));
      for (const ir::Value* v : op->operands) {
        if (v == nullptr || v->def == nullptr) continue;
        out += fmt::format("  n{} -> n{} [label={}];\n", id.at(v->def), id.at(op.get()),
                           quoted("%" + v->name + "\n" + v->type.to_string()));
      }
    }
  }
  return out + "}\n";
}

}  // namespace shunt
