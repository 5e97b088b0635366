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
  ReferenceRunner(ModuleForReference in, TensorReader reader, int64_t pages) : pages_(pages) {
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
    reference.checkpoint = std::move(reader);
    evaluator_ = std::make_unique<ir::Evaluator>(*module_, std::move(reference));
    evaluator_->load();
    for (const auto& graph : module_->graphs) {
      for (const auto& op : graph->ops) {
        if (is_gate(*op)) routes_of(*op);
      }
    }
  }

  const Limits& limits() const override { return limits_; }
  int64_t pages() const override { return pages_; }
  int64_t slots() const override { return has_slots_ ? limits_.max_num_seqs : 0; }
  int64_t vocab_size() const override { return vocab_; }
  int64_t forced_width() const override { return forced_; }

  /// dp groups take parts of the batch, padded to the largest.
  StepValues run(const StepInputs& in, bool with_probes) override {
    const Mesh& mesh = module_->mesh;
    const std::vector<BatchPart> parts = split_batch(in, mesh.dp);
    DimEnv dims = {{"T", 0}, {"S", 0}, {"R", 0}};
    for (const BatchPart& p : parts) {
      dims["T"] = std::max(dims["T"], static_cast<int64_t>(p.tokens.size()));
      dims["S"] = std::max(dims["S"], static_cast<int64_t>(p.inputs.kv_lens.size()));
      dims["R"] = std::max(dims["R"], static_cast<int64_t>(p.rows.size()));
    }
    const ir::Graph& graph = step_graph(dims["T"], in.decode);
    std::vector<std::map<std::string, ir::Tensor>> inputs;
    std::vector<int64_t> valid;
    for (int r = 0; r < mesh.size(); ++r) {
      const BatchPart& part = parts[static_cast<size_t>(mesh.index(MeshAxis::dp, r))];
      inputs.push_back(padded(graph, part.inputs, dims));
      valid.push_back(static_cast<int64_t>(part.tokens.size()));
    }
    StepValues out;
    const auto results = evaluator_->run_ranks(
        graph.name, dims, inputs,
        [&](int rank, const ir::Value& v, const ir::Tensor& t) {
          count_routes(rank, v, t);
          if (!with_probes || !ir::is_pinned(graph, &v) || mesh.index(MeshAxis::tp, rank) != 0)
            return;
          const BatchPart& part = parts[static_cast<size_t>(mesh.index(MeshAxis::dp, rank))];
          const bool by_row = v.type.shape[0] == Dim::symbol("R");
          if (!by_row && v.type.shape[0] != Dim::symbol("T")) return;  // of all groups
          place_rows(t, by_row ? part.rows : part.tokens,
                     by_row ? in.logit_rows.size() : in.tokens.size(), out.probes[v.name]);
        },
        valid);
    for (int g = 0; g < mesh.dp; ++g) {
      place_rows(results[static_cast<size_t>(g * mesh.tp)].at("logits"),
                 parts[static_cast<size_t>(g)].rows, in.logit_rows.size(), out.logits);
    }
    return out;
  }

  std::vector<RouteCounts> route_counts() override { return routes_; }

 private:
  static bool is_gate(const ir::Op& op) {
    return op.kind == ir::OpKind::topk_gate || op.kind == ir::OpKind::norm_gate;
  }

  /// The counts of a gate, which all step graphs have.
  std::vector<int64_t>& routes_of(const ir::Op& gate) {
    const auto at = std::find_if(routes_.begin(), routes_.end(),
                                 [&](const RouteCounts& r) { return r.loc == gate.loc; });
    if (at != routes_.end()) return at->routes;
    const ir::Value* logits = gate.kind == ir::OpKind::topk_gate ? gate.operand(0) : gate.result(2);
    return routes_
        .emplace_back(RouteCounts{
            gate.loc, std::vector<int64_t>(static_cast<size_t>(logits->type.last().constant()))})
        .routes;
  }

  /// Ranks of one tp group have the same routes. Padding and dropped routes have the id -1.
  void count_routes(int rank, const ir::Value& v, const ir::Tensor& ids) {
    if (v.def == nullptr || !is_gate(*v.def) || &v != v.def->results.back().get() ||
        module_->mesh.index(MeshAxis::tp, rank) != 0)
      return;
    std::vector<int64_t>& routes = routes_of(*v.def);
    for (const auto id : ids.i) {
      if (id >= 0) ++routes[static_cast<size_t>(id)];
    }
  }

  /// The step graph whose ranges fit, as the session chooses its program.
  const ir::Graph& step_graph(int64_t tokens, bool decode) const {
    const ir::Graph* best = nullptr;
    for (const auto& graph : module_->graphs) {
      if (!graph->name.starts_with("step")) continue;
      if (graph->name.starts_with("step.decode") && !decode) continue;
      const DimDecl& t = module_->dim(*graph, "T");
      if (tokens < t.min || tokens > t.max) continue;
      if (best == nullptr || graph->name.starts_with("step.decode")) best = graph.get();
    }
    if (best == nullptr) user_error("no step graph takes {} tokens", tokens);
    return *best;
  }

  /// The first rows of `t` as rows `at` of a matrix of `rows` rows.
  static void place_rows(const ir::Tensor& t, const std::vector<size_t>& at, size_t rows,
                         Matrix& to) {
    const auto columns = static_cast<size_t>(t.last());
    to.rows = static_cast<int64_t>(rows);
    to.cols = t.last();
    to.data.resize(rows * columns);
    for (size_t r = 0; r < at.size(); ++r) {
      std::copy_n(t.row(static_cast<int64_t>(r)), columns,
                  to.data.begin() + static_cast<std::ptrdiff_t>(at[r] * columns));
    }
  }

  /// Inputs of one rank at the sizes `dims`: what a batch lacks of them belongs to no sequence.
  static std::map<std::string, ir::Tensor> padded(const ir::Graph& graph, const StepInputs& in,
                                                  const DimEnv& dims) {
    std::map<std::string, ir::Tensor> inputs;
    for (const auto& input : graph.inputs) {
      Type type = input->type;
      for (Dim& d : type.shape) d = Dim(d.evaluate(dims));
      ir::Tensor t = ir::Tensor::make(type);
      const auto size = t.i.size();
      t.i = values_of(in, input->name, size);
      const bool forced = input->name.starts_with("forced.");
      const bool starts = input->name == "seq_starts";
      t.i.resize(size, starts ? static_cast<int32_t>(in.tokens.size()) : forced ? -1 : 0);
      inputs[input->name] = std::move(t);
    }
    return inputs;
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
  std::vector<RouteCounts> routes_;
};

}  // namespace

TensorReader checkpoint_reader(const std::filesystem::path& model_directory) {
  const auto checkpoint = std::make_shared<const Checkpoint>(Checkpoint::open(model_directory));
  return [checkpoint](const std::string& name, DType dtype, const std::vector<int64_t>& shape) {
    return read_tensor(*checkpoint, name, dtype, shape);
  };
}

std::unique_ptr<StepRunner> make_reference_runner(const CompileOptions& options, bool after_passes,
                                                  int64_t pages) {
  return make_reference_runner(import_module(options, after_passes),
                               checkpoint_reader(options.model_dir), pages);
}

std::unique_ptr<StepRunner> make_reference_runner(ModuleForReference module, TensorReader reader,
                                                  int64_t pages) {
  return std::make_unique<ReferenceRunner>(std::move(module), std::move(reader), pages);
}

}  // namespace shunt
