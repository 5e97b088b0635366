// The layout chooser. Entry point: compare_layouts(). Tested by tests/tools/layout_test.cpp.
#include "tools/layout.h"

#include <algorithm>
#include <future>
#include <mutex>
#include <thread>

#include "ir/error.h"
#include "passes/place/moe_shapes.h"
#include "runtime/session.h"

namespace shunt {

namespace {

/// `experts`: without any, how they would be spread is no choice.
std::vector<Mesh> meshes_of(int gpus, const Mesh& given, bool experts) {
  std::vector<Mesh> out;
  const bool one_way = !experts && given.ep == 0 && given.etp == 0;
  const auto allowed = [](int fixed, int value) { return fixed == 0 || fixed == value; };
  for (int tp = 1; tp <= gpus; ++tp) {
    if (gpus % tp != 0) continue;
    for (int etp = 1; etp <= gpus; ++etp) {
      if (gpus % etp != 0 || (one_way && etp != tp)) continue;
      const Mesh m{gpus / tp, tp, gpus / etp, etp};
      if (allowed(given.dp, m.dp) && allowed(given.tp, m.tp) && allowed(given.ep, m.ep) &&
          allowed(given.etp, m.etp)) {
        out.push_back(m);
      }
    }
  }
  return out;
}

Layout measure(CompileOptions options, const Mesh& mesh, const passes::Workload& workload) {
  Layout layout;
  layout.mesh = mesh;
  options.mesh = mesh;
  options.workload = workload;
  if (mesh.tp == 1 && options.keep_whole != "auto") options.keep_whole = "none";
  options.on_phase = {};
  options.on_warning = {};
  try {
    const CompiledPlan compiled = compile(options, true);
    const Plan& plan = compiled.plan;
    const Target target = target_of(options);
    layout.step =
        passes::predict_decode(*compiled.module, target, workload, uses_peer_memory(options));
    const int64_t sequences = mesh.group_batch(workload.batch);
    const int64_t pages = (workload.context + plan.limits.page_size - 1) / plan.limits.page_size;
    layout.rank_bytes = memory_needed(plan, sequences * pages).total();
    layout.fits =
        static_cast<double>(layout.rank_bytes) < 0.9 * static_cast<double>(target.memory_bytes);
    layout.keep_whole = compiled.sharding.keep_whole;
  } catch (const UserError& e) {
    layout.refused = e.what();
  }
  return layout;
}

/// In the order of `meshes`; as many at a time as there are cores.
std::vector<Layout> measure_all(const CompileOptions& options, const std::vector<Mesh>& meshes,
                                const passes::Workload& workload,
                                const std::function<void(const std::string&)>& on_progress) {
  std::vector<Layout> layouts(meshes.size());
  std::mutex mutex;  // of `next`, and of calls of on_progress
  size_t next = 0;
  const auto take = [&] {
    const std::lock_guard lock(mutex);
    if (next < meshes.size() && on_progress) {
      on_progress(
          fmt::format("layout {} of {}: {}", next + 1, meshes.size(), meshes[next].to_string()));
    }
    return next++;
  };
  const auto work = [&] {
    for (size_t i = take(); i < meshes.size(); i = take())
      layouts[i] = measure(options, meshes[i], workload);
  };
  std::vector<std::future<void>> others;
  const size_t threads = std::min<size_t>(meshes.size(), std::thread::hardware_concurrency());
  for (size_t i = 1; i < threads; ++i) others.push_back(std::async(std::launch::async, work));
  work();
  for (std::future<void>& other : others) other.get();
  return layouts;
}

}  // namespace

std::vector<Layout> compare_layouts(const CompileOptions& options, int gpus, const Mesh& given,
                                    const passes::Workload& workload,
                                    const std::function<void(const std::string&)>& on_progress) {
  // What is wrong with the model on any mesh is said here, once.
  const bool experts = !passes::moe_shapes(*import_module(options, false).module).empty();
  const std::vector<Mesh> meshes = meshes_of(gpus, given, experts);
  if (meshes.empty()) {
    user_error("no mesh of {} GPUs has the axes given (dp * tp = ep * etp = {})", gpus, gpus);
  }
  std::vector<Layout> layouts = measure_all(options, meshes, workload, on_progress);
  // Names that are wrong wherever they mean something.
  const auto splits = [](const Layout& l) { return l.mesh.tp > 1; };
  const auto first = std::find_if(layouts.begin(), layouts.end(), splits);
  if (options.keep_whole != "auto" && options.keep_whole != "none" && first != layouts.end() &&
      std::all_of(layouts.begin(), layouts.end(),
                  [&](const Layout& l) { return !splits(l) || !l.refused.empty(); })) {
    user_error("{}", first->refused);
  }
  std::stable_sort(layouts.begin(), layouts.end(), [](const Layout& a, const Layout& b) {
    if (a.refused.empty() != b.refused.empty()) return a.refused.empty();
    if (a.fits != b.fits) return a.fits;
    return a.step.seconds() < b.step.seconds();
  });
  return layouts;
}

std::string layout_table(const std::vector<Layout>& layouts, const passes::Workload& workload) {
  std::string out = fmt::format(
      "decode of {} sequences of {} tokens, predicted milliseconds a step\n"
      "{:<28}{:>9}{:>9}{:>9}{:>11}{:>9}{:>9}{:>12}\n",
      workload.batch, workload.context, "layout", "step", "experts", "dense", "attention", "other",
      "comm", "GiB a rank");
  for (const Layout& l : layouts) {
    if (!l.refused.empty()) {
      out += fmt::format("{:<28}cannot be compiled: {}\n", l.mesh.to_string(), l.refused);
      continue;
    }
    const auto ms = [](double s) { return s * 1e3; };
    const std::string whole = l.mesh.tp == 1 ? "" : "  whole: " + kept_whole_text(l.keep_whole);
    out +=
        fmt::format("{:<28}{:>9.3f}{:>9.3f}{:>9.3f}{:>11.3f}{:>9.3f}{:>9.3f}{:>12.2f}{}{}\n",
                    l.mesh.to_string(), ms(l.step.seconds()), ms(l.step.experts), ms(l.step.dense),
                    ms(l.step.attention), ms(l.step.other), ms(l.step.communication),
                    static_cast<double>(l.rank_bytes) / static_cast<double>(int64_t{1} << 30),
                    l.fits ? "" : "  does not fit", whole);
  }
  return out;
}

}  // namespace shunt
