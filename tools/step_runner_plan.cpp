// A plan in a Session as a StepRunner. Entry point make_plan_runner(); tested by
// tests/tools/verify_test.cpp.
#include <algorithm>

#include "ir/error.h"
#include "runtime/session.h"
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
  PlanRunner(const std::filesystem::path& directory, int64_t kv_pages,
             const std::filesystem::path& model_directory)
      : session_(load_plan(directory), directory, [&] {
          SessionOptions o;
          o.kv_pages = kv_pages;
          o.model_directory = model_directory;
          return o;
        }()) {}

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

  StepValues run(const StepInputs& in, bool with_probes) override {
    fill("tokens", in.tokens);
    fill("positions", in.positions);
    fill("seq_starts", in.seq_starts);
    fill("kv_lens", in.kv_lens);
    fill("block_tables", in.block_tables);
    fill("state_slots", in.state_slots);
    fill("logit_rows", in.logit_rows);
    for (const Port& p : session_.plan().ports) {
      if (!p.role.starts_with("forced.")) continue;
      const auto it = in.forced.find(p.role);
      auto port = session_.input_as<int32_t>(p.role);
      std::fill(port.begin(), port.end(), -1);
      if (it != in.forced.end()) std::copy(it->second.begin(), it->second.end(), port.begin());
    }
    const auto T = static_cast<int64_t>(in.tokens.size()),
               S = static_cast<int64_t>(in.kv_lens.size()),
               R = static_cast<int64_t>(in.logit_rows.size());
    StepValues out;
    ProbeReader probes(out.probes);
    session_.run_step(in.decode, T, S, R, with_probes ? &probes : nullptr);
    const int64_t vocab = vocab_size();
    const auto logits = session_.output_as<float>("logits", R * vocab);
    out.logits = {R, vocab, {logits.begin(), logits.end()}};
    return out;
  }

 private:
  void fill(std::string_view role, const std::vector<int32_t>& values) {
    if (!session_.has_port(role)) return;
    auto port = session_.input_as<int32_t>(role);
    SHUNT_CHECK(values.size() <= port.size(), "{} values for port {} of {}", values.size(), role,
                port.size());
    std::copy(values.begin(), values.end(), port.begin());
  }

  Session session_;
};

}  // namespace

std::unique_ptr<StepRunner> make_plan_runner(const std::filesystem::path& plan_directory,
                                             int64_t kv_pages,
                                             const std::filesystem::path& model_directory) {
  return std::make_unique<PlanRunner>(plan_directory, kv_pages, model_directory);
}

}  // namespace shunt
