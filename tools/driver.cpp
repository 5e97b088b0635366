// Frontend, passes, lowering, NVRTC and the plan folder, in this order. Tested by
// tests/tools/driver_test.cpp.
#include "tools/driver.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/ranges.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <thread>

#include "codegen/kernel_headers.h"
#include "codegen/lower.h"
#include "frontends/frontend.h"
#include "ir/collectives.h"
#include "ir/error.h"
#include "passes/runner.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/digest.h"
#include "runtime/device.h"
#include "runtime/jit/jit.h"
#include "tools/expert_map_json.h"

namespace shunt {

namespace fs = std::filesystem;

namespace {

class PhaseTimer {
 public:
  explicit PhaseTimer(const CompileOptions& options) : options_(options) {}
  void end(std::string_view phase, std::string_view remark = "") {
    const auto now = std::chrono::steady_clock::now();
    if (options_.on_phase)
      options_.on_phase(phase, std::chrono::duration<double>(now - start_).count(), remark);
    start_ = now;
  }

 private:
  const CompileOptions& options_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

void require_model_dir(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) user_error("{}: no such model directory", path.string());
}

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) user_error("cannot make the folder {}: {}", path.string(), error.message());
}

struct Imported {
  std::optional<Checkpoint> checkpoint;
  ImportedModel model;
};

FrontendOptions frontend_options(const CompileOptions& options) {
  FrontendOptions f;
  f.model_dir = options.model_dir;
  f.dtype = options.dtype;
  f.cpu = find_target(options.target).is_cpu();
  if (f.cpu && options.dtype != "auto" && options.dtype != "f32") {
    user_error("--dtype {}: the cpu target computes in float32; use auto or f32", options.dtype);
  }
  f.max_model_len = options.max_model_len;
  f.max_num_seqs = options.max_num_seqs;
  f.max_num_batched_tokens = options.max_num_batched_tokens;
  f.max_logit_rows = options.max_logit_rows;
  f.dummy_weights = options.dummy_weights;
  f.force_routing = options.force_routing;
  f.allow_unused_tensors = options.allow_unused_tensors;
  return f;
}

Imported import(const CompileOptions& options) {
  require_model_dir(options.model_dir);
  const FrontendOptions f = frontend_options(options);
  Imported in;
  if (!options.dummy_weights) in.checkpoint = Checkpoint::open(options.model_dir);
  in.model = import_model(f, in.checkpoint ? &*in.checkpoint : nullptr);
  if (options.on_warning) {
    for (const std::string& w : in.model.warnings) options.on_warning(w);
  }
  return in;
}

passes::MoeComm moe_comm_of(const std::string& name) {
  const auto names = enum_names(passes::MoeComm{});
  const auto it = std::find(names.begin(), names.end(), name);
  if (it == names.end()) user_error("moe_comm {} is not auto, allgather or alltoall", name);
  return static_cast<passes::MoeComm>(it - names.begin());
}

/// All but keep_whole.
passes::PassOptions pass_options(const CompileOptions& options) {
  passes::PassOptions p;
  p.mesh = options.mesh;
  p.gather_logits = options.gather_logits;
  p.moe_comm = moe_comm_of(options.moe_comm);
  p.peer_memory = uses_peer_memory(options);
  if (!options.expert_map.empty()) p.expert_map = load_expert_map(options.expert_map);
  return p;
}

/// The names that options.keep_whole has, sorted, each once.
std::vector<std::string> given_names(const CompileOptions& options) {
  std::set<std::string> names;
  std::istringstream text(options.keep_whole + ",");
  for (std::string name; std::getline(text, name, ',');) {
    const size_t begin = name.find_first_not_of(' ');
    if (begin == std::string::npos)
      user_error("--keep-whole '{}' has an empty name: give auto, none or names",
                 options.keep_whole);
    names.insert(name.substr(begin, name.find_last_not_of(' ') - begin + 1));
  }
  return {names.begin(), names.end()};
}

passes::ShardingChoice sharding_of(const ir::Module& logical, const CompileOptions& options) {
  if (options.keep_whole == "none") return {};
  if (options.keep_whole == "auto") {
    return passes::choose_sharding(logical, target_of(options), pass_options(options),
                                   options.workload);
  }
  return {given_names(options), {}};
}

std::vector<passes::PassRecord> run_all_passes(ir::Module& module, const CompileOptions& options,
                                               const passes::ShardingChoice& sharding) {
  passes::PassOptions p = pass_options(options);
  p.keep_whole = sharding.keep_whole;
  p.dump_dir = options.dump_phases_to.string();
  if (!p.dump_dir.empty()) make_folder(p.dump_dir);
  return passes::run_pipeline(module, target_of(options), p);
}

/// Elements of all parameters, and of those one token uses: of a stack of experts, k of E.
void count_parameters(const ir::Module& module, ModelInfo& info) {
  info.parameters = info.active_parameters = 0;
  for (const ir::Param& p : module.params) {
    const int64_t n = p.value->type.elements().constant();
    int64_t used = n;
    for (const ir::Op* user : p.value->users) {
      const bool routed =
          user->kind == ir::OpKind::routed_linear || user->kind == ir::OpKind::grouped_linear;
      if (routed && user->operand(1) == p.value.get()) {
        used = n / p.value->type.shape[0].constant() * info.experts_per_token;
      }
    }
    info.parameters += n;
    info.active_parameters += used;
  }
}

Limits limits_of(const ImportedModel& model) {
  const FrontendLimits& l = model.limits;
  return {l.max_model_len, l.max_num_seqs, l.max_num_batched_tokens, l.max_logit_rows, l.page_size};
}

codegen::Lowered lower(const ImportedModel& model, const Checkpoint* checkpoint,
                       const CompileOptions& options) {
  const Target target = target_of(options);
  codegen::LowerOptions lower_options{target, limits_of(model), {}};
  lower_options.peer_memory = uses_peer_memory(options);
  lower_options.find_tensor = [&](const std::string& name) {
    const TensorInfo* t = checkpoint->find(name);
    SHUNT_CHECK(t != nullptr, "tensor {} was checked at import", name);
    return codegen::TensorSource{t->file, t->offset, t->bytes};
  };
  codegen::Lowered lowered = codegen::lower(*model.module, lower_options);
  Plan& plan = lowered.plan;
  plan.compiler = SHUNT_VERSION;
  plan.activation_dtype = dtype_name(model.activation);
  const ModelFacts& f = model.facts;
  plan.model = {f.name,    f.vocab_size,        f.eos_ids,    f.bos_id, f.layers,
                f.experts, f.experts_per_token, f.moe_layers, 0,        0};
  count_parameters(*model.module, plan.model);
  if (checkpoint != nullptr) {
    plan.model_directory = fs::canonical(options.model_dir).string();
    for (const CheckpointFile& file : checkpoint->files()) {
      plan.files.push_back({file.name, file.size, file.header_digest});
    }
  }
  return lowered;
}

void write_file(const fs::path& path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file) user_error("cannot write {} (is the disk full?)", path.string());
}

void write_into(const CompiledPlan& compiled, const fs::path& directory) {
  fs::create_directories(directory / "kernels");
  for (const CompiledPlan::File& file : compiled.kernels)
    write_file(directory / file.name, file.bytes);
  write_file(directory / "plan.json", to_json(compiled.plan));
}

/// Renames; an old plan in the way is swapped for the new one in one step, so that a reader always
/// finds a whole plan.
void put_in_place(const fs::path& made, const fs::path& target) {
  std::error_code error;
  fs::rename(made, target, error);
  if (!error) return;
  if (::renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) {
    fs::remove_all(made);
    return;
  }
  fs::remove_all(target);  // a file system that cannot swap
  fs::rename(made, target);
}

/// A digest of everything that decides what compile() returns.
std::string plan_key(const CompileOptions& o) {
  Sha256 hash;
  const auto add = [&](const std::string& text) {
    hash.update(std::to_string(text.size()) + ":");
    hash.update(text);
  };
  const fs::path exe = fs::read_symlink("/proc/self/exe");
  add(fmt::format("{} {} {} {}", SHUNT_VERSION, kPlanFormat, fs::file_size(exe),
                  fs::last_write_time(exe).time_since_epoch().count()));
  add(fmt::format("{} {} {} {} {} {} {} {} {}", o.target, o.dtype, o.max_model_len, o.max_num_seqs,
                  o.max_num_batched_tokens, o.max_logit_rows, o.dummy_weights, o.force_routing,
                  o.allow_unused_tensors));
  add(fmt::format("{} {} {} {}", o.mesh.to_string(), o.moe_comm, uses_peer_memory(o),
                  o.gather_logits));
  const Target target = target_of(o);
  add(fmt::format("{} {} {} {} {}", o.keep_whole, o.workload.batch, o.workload.context,
                  target.link_bytes_per_s, target.collective_seconds));
  if (!o.expert_map.empty()) add(expert_map_to_json(load_expert_map(o.expert_map)));
  add(fs::canonical(o.model_dir).string());
  for (const char* name : {"config.json", "generation_config.json", "ds_inference_config.json"}) {
    std::ifstream file(o.model_dir / name, std::ios::binary);
    add(std::string(std::istreambuf_iterator<char>(file), {}));
  }
  if (!o.dummy_weights) {
    const Checkpoint checkpoint = Checkpoint::open(o.model_dir);
    for (const CheckpointFile& f : checkpoint.files()) {
      add(fmt::format("{} {} {}", f.name, f.size, f.header_digest));
    }
  }
  return hash.finish_hex();
}

}  // namespace

Target target_of(const CompileOptions& options) {
  Target target = find_target(options.target);
  if (options.link_bytes_per_s) target.link_bytes_per_s = *options.link_bytes_per_s;
  if (options.link_seconds)
    target.collective_seconds = collective_seconds_of_two(*options.link_seconds);
  return target;
}

std::string links_warning(const CompileOptions& o, int ranks) {
  if (ranks <= kMaxPeers || find_target(o.target).is_cpu() || o.link_bytes_per_s || o.link_seconds)
    return "";
  return fmt::format(
      "{} ranks are on several nodes, and layouts are chosen as if NVLink joined them: give "
      "--link-gbps and --link-us",
      ranks);
}

std::string kept_whole_text(const std::vector<std::string>& names) {
  return names.empty() ? "nothing" : fmt::format("{}", fmt::join(names, ", "));
}

bool uses_peer_memory(const CompileOptions& o) {
  if (o.peer_memory != "auto" && o.peer_memory != "on" && o.peer_memory != "off")
    user_error("peer_memory {} is not auto, on or off", o.peer_memory);
  if (find_target(o.target).is_cpu()) {
    if (o.peer_memory == "on") user_error("--peer-memory on: the cpu target has no GPUs");
    return false;
  }
  bool groups = false;
  for (const MeshAxis axis : {MeshAxis::dp, MeshAxis::tp, MeshAxis::ep, MeshAxis::etp})
    groups = groups || exchanges_over_peers(o.mesh.size(axis), true);
  if (o.peer_memory == "on" && o.mesh.size() > 1 && !groups) {
    user_error("--peer-memory on: the mesh ({}) has no group of 2 to {} ranks", o.mesh.to_string(),
               kMaxPeers);
  }
  if (o.mesh.size() == 1 || o.peer_memory == "off") return false;
  if (o.peer_memory == "auto" && (o.link_bytes_per_s || o.link_seconds)) return false;
  return o.peer_memory == "on" || (o.target == "sm_90a" && o.mesh.size() <= kMaxPeers);
}

void compile_kernels(codegen::Lowered& lowered, const CompileOptions& options, CompiledPlan& out) {
  std::vector<JitSource> sources;
  std::vector<size_t> kernel_of;
  for (size_t i = 0; i < lowered.sources.size(); ++i) {
    if (lowered.sources[i].name.empty()) continue;  // a host kernel
    sources.push_back({lowered.sources[i].name, lowered.sources[i].text()});
    kernel_of.push_back(i);
  }
  if (sources.empty()) return;
  JitOptions jit;
  jit.cache_dir = (options.cache_dir.empty() ? default_cache_dir() : options.cache_dir) / "kernels";
  jit.target = options.target;
  jit.headers = codegen::kernel_headers();
  jit.threads =
      options.jobs > 0 ? options.jobs : static_cast<int>(std::thread::hardware_concurrency());
  const std::vector<JitResult> results = compile_all(sources, jit);
  for (size_t i = 0; i < results.size(); ++i) {
    const JitResult& r = results[i];
    Kernel& kernel = lowered.plan.kernels[kernel_of[i]];
    kernel.digest = r.digest;
    out.kernels.push_back({"kernels/" + r.digest + ".cu", r.source});
    out.kernels.push_back(
        {"kernels/" + r.digest + ".cubin", std::string(r.cubin.begin(), r.cubin.end())});
    (r.from_cache ? out.kernels_from_cache : out.kernels_compiled) += 1;
  }
}

CompiledPlan compile(const CompileOptions& options, bool plan_only) {
  PhaseTimer timer(options);
  Imported in = import(options);
  timer.end("import");
  return compile(std::move(in.model), in.checkpoint ? &*in.checkpoint : nullptr, options,
                 plan_only);
}

CompiledPlan compile(ImportedModel model, const Checkpoint* checkpoint,
                     const CompileOptions& options, bool plan_only) {
  PhaseTimer timer(options);
  const std::string warning = links_warning(options, options.mesh.size());
  if (options.on_warning && !warning.empty()) options.on_warning(warning);
  CompiledPlan out;
  out.sharding = sharding_of(*model.module, options);
  if (!out.sharding.trials.empty()) {
    timer.end("sharding", fmt::format("{} ways; whole: {}", out.sharding.trials.size(),
                                      kept_whole_text(out.sharding.keep_whole)));
  }
  for (const passes::PassRecord& r : run_all_passes(*model.module, options, out.sharding)) {
    if (options.on_phase) options.on_phase(r.name, r.seconds, r.changed ? "" : "no change");
  }
  timer.end("passes");
  codegen::Lowered lowered = lower(model, checkpoint, options);
  timer.end("lower", fmt::format("{} programs", lowered.plan.programs.size()));
  if (!plan_only) {
    compile_kernels(lowered, options, out);
    timer.end("kernels", fmt::format("{} compiled, {} from the cache", out.kernels_compiled,
                                     out.kernels_from_cache));
    if (!options.dump_kernels_to.empty()) {
      make_folder(options.dump_kernels_to / "kernels");
      for (const CompiledPlan::File& f : out.kernels)
        write_file(options.dump_kernels_to / f.name, f.bytes);
    }
  }
  out.plan = std::move(lowered.plan);
  out.plan.kept_whole = out.sharding.keep_whole;
  out.module = std::move(model.module);
  if (!plan_only) {
    validate(out.plan);
    timer.end("validate");
  }
  return out;
}

void check_plan_destination(const fs::path& directory) {
  std::error_code error;
  const bool replaceable = is_plan_directory(directory) ||
                           (fs::is_directory(directory, error) && fs::is_empty(directory, error));
  if (fs::exists(directory, error) && !replaceable) {
    user_error("{} exists and is not a plan: choose another -o, or remove it", directory.string());
  }
  fs::path parent = fs::weakly_canonical(fs::absolute(directory)).parent_path();
  while (!fs::exists(parent, error)) parent = parent.parent_path();
  if (!fs::is_directory(parent, error) || ::access(parent.c_str(), W_OK | X_OK) != 0) {
    user_error("cannot write the plan {}: {} is no folder that can be written to",
               directory.string(), parent.string());
  }
}

void write_plan(const CompiledPlan& compiled, const fs::path& directory) {
  check_plan_destination(directory);
  const fs::path target = fs::weakly_canonical(fs::absolute(directory));
  const fs::path temporary = target.string() + fmt::format(".tmp{}", ::getpid());
  try {
    fs::create_directories(target.parent_path());
    write_into(compiled, temporary);
    put_in_place(temporary, target);
  } catch (const fs::filesystem_error& e) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    user_error("cannot write the plan {}: {}", directory.string(), e.code().message());
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw;
  }
}

CachedPlan compile_cached(const CompileOptions& options) {
  require_model_dir(options.model_dir);
  const fs::path cache = options.cache_dir.empty() ? default_cache_dir() : options.cache_dir;
  const fs::path directory = cache / "plans" / plan_key(options);
  if (is_plan_directory(directory)) return {directory, true};
  write_plan(compile(options), directory);
  return {directory, false};
}

fs::path default_cache_dir() {
  const auto env = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
  };
  fs::path dir = env("SHUNT_CACHE_DIR");
  if (dir.empty() && !env("XDG_CACHE_HOME").empty())
    dir = fs::path(env("XDG_CACHE_HOME")) / "shunt";
  if (dir.empty() && !env("HOME").empty()) dir = fs::path(env("HOME")) / ".cache" / "shunt";
  if (dir.empty()) user_error("no place for the cache: set SHUNT_CACHE_DIR or HOME");
  std::error_code error;
  fs::create_directories(dir, error);
  if (error) user_error("cannot create the cache folder {}: {}", dir.string(), error.message());
  ::chmod(dir.c_str(), 0700);
  return dir;
}

bool is_plan_directory(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path / "plan.json", error);
}

std::string default_target() {
  if (device_count() == 0) return "cpu";
  const int sm = device_info(0).sm;
  if (sm == 90) return "sm_90a";
  if (sm >= 80 && sm < 90) return "sm_80";
  return "cpu";
}

ModuleForReference import_module(const CompileOptions& options, bool after_passes) {
  Imported in = import(options);
  ir::Module& module = *in.model.module;
  if (after_passes) run_all_passes(module, options, sharding_of(module, options));
  ModuleForReference out;
  out.limits = limits_of(in.model);
  out.vocab_size = in.model.facts.vocab_size;
  out.forced_width = options.force_routing ? in.model.facts.experts_per_token : 0;
  out.module = std::move(in.model.module);
  return out;
}

Explanation explain(const CompileOptions& options) {
  require_model_dir(options.model_dir);
  std::optional<Checkpoint> checkpoint;
  if (!options.dummy_weights) checkpoint = Checkpoint::open(options.model_dir);
  return explain_model(frontend_options(options), checkpoint ? &*checkpoint : nullptr);
}

}  // namespace shunt
