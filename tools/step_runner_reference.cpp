// The evaluator as a StepRunner. Entry points make_reference_runner(), checkpoint_reader(); tested
// by tests/tools/verify_test.cpp.
#include <algorithm>

#include "ir/error.h"
#include "ir/module.h"
#include "ir/reference/evaluator.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/file_reader.h"
#include "tools/step_runner.h"

namespace shunt {

namespace {

/// Reads a checkpoint tensor: floats as float32 values, bytes as integers.
ir::Tensor read_tensor(const Checkpoint& checkpoint, const std::string& name, DType dtype,
                       const std::vector<int64_t>& shape) {
  const TensorInfo* info = checkpoint.find(name);
  SHUNT_CHECK(info != nullptr && info->dtype == dtype, "tensor {} was checked at import", name);
  const FileReader file(std::filesystem::path(checkpoint.directory) /
                        checkpoint.files()[info->file].name);
  std::vector<std::byte> bytes(info->bytes);
  file.read(info->offset, bytes);
  Type type{dtype, {}};
  for (int64_t n : shape) type.shape.emplace_back(n);
  ir::Tensor out = ir::Tensor::make(type);
  const auto bits = [](std::byte b) { return static_cast<uint8_t>(b); };
  if (dtype == DType::u8) {
    std::transform(bytes.begin(), bytes.end(), out.i.begin(), bits);
  } else if (dtype == DType::f8e4m3) {
    std::transform(bytes.begin(), bytes.end(), out.f.begin(),
                   [&](std::byte b) { return f32_from_f8e4m3(bits(b)); });
  } else {
    out.f = floats_from(bytes, dtype);
  }
  return out;
}

class ReferenceRunner : public StepRunner {
 public:
  ReferenceRunner(const CompileOptions& options, bool after_passes, int64_t pages) : pages_(pages) {
    ModuleForReference in = import_module(options, after_passes);
    module_ = std::move(in.module);
    limits_ = in.limits;
    vocab_ = in.vocab_size;
    forced_ = in.forced_width;
    ir::ReferenceOptions reference;
    reference.pages = pages;
    reference.slots = limits_.max_num_seqs;
    has_slots_ = std::any_of(module_->states.begin(), module_->states.end(), [](const auto& s) {
      return s.value->state_kind() == StateKind::slot;
    });
    reference.checkpoint = checkpoint_reader(options.model_dir);
    evaluator_ = std::make_unique<ir::Evaluator>(*module_, std::move(reference));
    evaluator_->load();
  }

  const Limits& limits() const override { return limits_; }
  int64_t pages() const override { return pages_; }
  int64_t slots() const override { return has_slots_ ? limits_.max_num_seqs : 0; }
  int64_t vocab_size() const override { return vocab_; }
  int64_t forced_width() const override { return forced_; }

  StepValues run(const StepInputs& in, bool with_probes) override {
    const DimEnv dims = {
        {"T", in.tokens.size()}, {"S", in.kv_lens.size()}, {"R", in.logit_rows.size()}};
    const ir::Graph& graph = step_graph(in);
    std::map<std::string, ir::Tensor> inputs;
    for (const auto& input : graph.inputs) {
      Type type = input->type;
      for (Dim& d : type.shape) d = Dim(d.evaluate(dims));
      ir::Tensor t = ir::Tensor::make(type);
      t.i = values_of(in, input->name, t.i.size());
      inputs[input->name] = std::move(t);
    }
    StepValues out;
    const auto matrix = [](const ir::Tensor& t) { return Matrix{t.rows(), t.last(), t.f}; };
    const auto results =
        evaluator_->run(graph.name, dims, inputs, [&](const ir::Value& v, const ir::Tensor& t) {
          if (with_probes && ir::is_pinned(graph, &v)) out.probes[v.name] = matrix(t);
        });
    out.logits = matrix(results.at("logits"));
    return out;
  }

 private:
  /// The step graph whose ranges fit, as the session chooses its program.
  const ir::Graph& step_graph(const StepInputs& in) const {
    const auto tokens = static_cast<int64_t>(in.tokens.size());
    const ir::Graph* best = nullptr;
    for (const auto& graph : module_->graphs) {
      if (!graph->name.starts_with("step")) continue;
      if (graph->name.starts_with("step.decode") && !in.decode) continue;
      const DimDecl& t = module_->dim(*graph, "T");
      if (tokens < t.min || tokens > t.max) continue;
      if (best == nullptr || graph->name.starts_with("step.decode")) best = graph.get();
    }
    if (best == nullptr) user_error("no step graph takes {} tokens", tokens);
    return *best;
  }

  static std::vector<int32_t> values_of(const StepInputs& in, const std::string& role,
                                        size_t size) {
    const std::map<std::string, const std::vector<int32_t>*> roles = {
        {"tokens", &in.tokens},
        {"positions", &in.positions},
        {"seq_starts", &in.seq_starts},
        {"kv_lens", &in.kv_lens},
        {"block_tables", &in.block_tables},
        {"state_slots", &in.state_slots},
        {"logit_rows", &in.logit_rows}};
    if (const auto it = roles.find(role); it != roles.end()) return *it->second;
    if (const auto it = in.forced.find(role); it != in.forced.end()) return it->second;
    return std::vector<int32_t>(size, -1);  // forced.N, not forced
  }

  int64_t pages_;
  bool has_slots_ = false;
  std::unique_ptr<ir::Module> module_;
  std::unique_ptr<ir::Evaluator> evaluator_;
  Limits limits_;
  int64_t vocab_ = 0, forced_ = 0;
};

}  // namespace

std::function<ir::Tensor(const std::string&, DType, const std::vector<int64_t>&)> checkpoint_reader(
    const std::filesystem::path& model_directory) {
  const auto checkpoint = std::make_shared<const Checkpoint>(Checkpoint::open(model_directory));
  return [checkpoint](const std::string& name, DType dtype, const std::vector<int64_t>& shape) {
    return read_tensor(*checkpoint, name, dtype, shape);
  };
}

std::unique_ptr<StepRunner> make_reference_runner(const CompileOptions& options, bool after_passes,
                                                  int64_t pages) {
  return std::make_unique<ReferenceRunner>(options, after_passes, pages);
}

}  // namespace shunt
