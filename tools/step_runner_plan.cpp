// A plan in a Session as a StepRunner. Entry point make_plan_runner(); tested by
// tests/tools/verify_test.cpp.
#include <algorithm>

#include "ir/error.h"
#include "runtime/ranks.h"
#include "tools/step_runner.h"

namespace shunt {

namespace {

/// Copies the values that `verify` compares as soon as the step that makes them has run.
class ProbeReader : public StepObserver {
 public:
  explicit ProbeReader(std::map<std::string, Matrix>& out) : out_(out) {}
  void after_step(Session& session, const StepInfo& info) override {
    for (int index : info.step->writes) {
      const Buffer& b = session.plan().buffers[index];
      if (!b.name.starts_with("hidden.") && !b.name.starts_with("router_logits.")) continue;
      session.read_buffer(index, bytes_);
      Matrix m;
      m.data = floats_from(bytes_, b.type.dtype);
      m.cols = b.type.last().constant();
      m.rows = static_cast<int64_t>(m.data.size()) / m.cols;
      out_[b.name] = std::move(m);
    }
  }

 private:
  std::map<std::string, Matrix>& out_;
  std::vector<std::byte> bytes_;
};

class PlanRunner : public StepRunner {
 public:
  PlanRunner(const std::filesystem::path& directory, const RanksOptions& options)
      : ranks_(load_plan(directory), directory, options), session_(ranks_.session()) {}
  ~PlanRunner() override {
    try {
      ranks_.finish();
    } catch (const Error&) {  // a rank failed after the last run: the values are there
    }
  }

  const Limits& limits() const override { return session_.plan().limits; }
  int64_t pages() const override { return session_.pages(); }
  int64_t slots() const override { return session_.has_port("state_slots") ? session_.slots() : 0; }
  int64_t vocab_size() const override { return session_.plan().model.vocab_size; }
  int64_t forced_width() const override {
    for (const Port& p : session_.plan().ports) {
      if (p.role.starts_with("forced."))
        return session_.plan().buffers[p.buffer].type.last().constant();
    }
    return 0;
  }

  bool has_probes() const override { return session_.groups() == 1; }

  StepValues run(const StepInputs& in, bool with_probes) override {
    const std::vector<BatchPart> parts = split_batch(in, session_.groups());
    std::vector<StepSizes> sizes;
    for (size_t g = 0; g < parts.size(); ++g) {
      fill(parts[g].inputs, static_cast<int>(g));
      sizes.push_back({static_cast<int64_t>(parts[g].tokens.size()),
                       static_cast<int64_t>(parts[g].inputs.kv_lens.size()),
                       static_cast<int64_t>(parts[g].rows.size())});
    }
    StepValues out;
    ProbeReader probes(out.probes);
    session_.run_step(in.decode, sizes, with_probes && has_probes() ? &probes : nullptr);
    read_logits(in, parts, out.logits);
    return out;
  }

  std::vector<RouteCounts> route_counts() override { return session_.route_counts(); }

 private:
  /// Rows of all groups in the order of the batch.
  void read_logits(const StepInputs& in, const std::vector<BatchPart>& parts, Matrix& logits) {
    const int64_t vocab = vocab_size();
    const int64_t stride = session_.group_rows();
    if (!has_probes() && !session_.has_port("all_logits")) {
      user_error(
          "the plan was not made for `verify`, which needs the logits of all dp groups: give "
          "the model directory");
    }
    const auto groups = static_cast<int64_t>(parts.size());
    const auto all = session_.output_as<float>(has_probes() ? "logits" : "all_logits",
                                               stride * groups * vocab);
    logits = {static_cast<int64_t>(in.logit_rows.size()), vocab, {}};
    logits.data.resize(in.logit_rows.size() * static_cast<size_t>(vocab));
    for (int64_t g = 0; g < groups; ++g) {
      auto from = all.begin() + g * stride * vocab;
      for (const size_t row : parts[static_cast<size_t>(g)].rows) {
        std::copy(from, from + vocab, logits.data.begin() + static_cast<int64_t>(row) * vocab);
        from += vocab;
      }
    }
  }

  void fill(const StepInputs& in, int group) {
    fill("tokens", in.tokens, group);
    fill("positions", in.positions, group);
    fill("seq_starts", in.seq_starts, group);
    fill("kv_lens", in.kv_lens, group);
    fill("block_tables", in.block_tables, group);
    fill("state_slots", in.state_slots, group);
    fill("logit_rows", in.logit_rows, group);
    for (const Port& p : session_.plan().ports) {
      if (!p.role.starts_with("forced.")) continue;
      const auto it = in.forced.find(p.role);
      auto port = session_.input_as<int32_t>(p.role, group);
      std::fill(port.begin(), port.end(), -1);
      if (it != in.forced.end()) std::copy(it->second.begin(), it->second.end(), port.begin());
    }
  }

  void fill(std::string_view role, const std::vector<int32_t>& values, int group) {
    if (!session_.has_port(role)) return;
    auto port = session_.input_as<int32_t>(role, group);
    SHUNT_CHECK(values.size() <= port.size(), "{} values for port {} of {}", values.size(), role,
                port.size());
    std::copy(values.begin(), values.end(), port.begin());
  }

  Ranks ranks_;
  Session& session_;
};

}  // namespace

std::unique_ptr<StepRunner> make_plan_runner(const std::filesystem::path& plan_directory,
                                             const RanksOptions& options) {
  return std::make_unique<PlanRunner>(plan_directory, options);
}

std::unique_ptr<StepRunner> make_plan_runner(const std::filesystem::path& plan_directory,
                                             int64_t kv_pages) {
  RanksOptions options;
  options.session.kv_pages = kv_pages;
  return make_plan_runner(plan_directory, options);
}

}  // namespace shunt
