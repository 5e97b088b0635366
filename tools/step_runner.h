// One step of a model on some executor: a plan in a Session, or the module in the reference
// evaluator. `verify` drives both through this.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ir/reference/tensor.h"
#include "runtime/plan/plan.h"
#include "runtime/ranks.h"
#include "tools/driver.h"
#include "tools/golden.h"

namespace shunt {

/// A ragged batch; fields are the @step inputs of that name (ir/ops.h).
struct StepInputs {
  bool decode = false;  // every sequence has one new token
  std::vector<int32_t> tokens, positions, seq_starts, kv_lens, block_tables, state_slots,
      logit_rows;
  std::map<std::string, std::vector<int32_t>> forced;  // "forced.N": [T, k], -1: not forced
};

/// What one dp group gets of a batch: the sequences whose state slot (their number, which stays)
/// leaves the remainder `group`, and where their tokens and logit rows stand in the batch.
struct BatchPart {
  StepInputs inputs;
  std::vector<size_t> tokens, rows;
};
std::vector<BatchPart> split_batch(const StepInputs& batch, int groups);

struct StepValues {
  Matrix logits;  // [R, V]
  std::map<std::string, Matrix>
      probes;  // hidden.N, router_logits.N of this step: [T or R, columns]
};

class StepRunner {
 public:
  virtual ~StepRunner() = default;
  virtual const Limits& limits() const = 0;
  virtual int64_t pages() const = 0;
  /// Rows of slot states; 0 if the model has none.
  virtual int64_t slots() const = 0;
  virtual int64_t vocab_size() const = 0;
  /// k of the inputs forced.N; 0 if there are none.
  virtual int64_t forced_width() const = 0;
  /// False where this process does not see the values of every token (dp > 1): run() gives no
  /// probes.
  virtual bool has_probes() const { return true; }
  virtual StepValues run(const StepInputs& inputs, bool with_probes) = 0;
  /// As Session::route_counts().
  virtual std::vector<RouteCounts> route_counts() = 0;
};

using TensorReader =
    std::function<ir::Tensor(const std::string&, DType, const std::vector<int64_t>&)>;

/// Runs a plan, as its rank 0.
std::unique_ptr<StepRunner> make_plan_runner(const std::filesystem::path& plan_directory,
                                             const RanksOptions& options);
/// On the ranks of this process; `kv_pages` as in SessionOptions.
std::unique_ptr<StepRunner> make_plan_runner(const std::filesystem::path& plan_directory,
                                             int64_t kv_pages);
/// Evaluates the module of a model directory, before passes or after them.
std::unique_ptr<StepRunner> make_reference_runner(const CompileOptions& options, bool after_passes,
                                                  int64_t pages);
/// Evaluates a module of any stage, whose tensors `reader` reads.
std::unique_ptr<StepRunner> make_reference_runner(ModuleForReference module, TensorReader reader,
                                                  int64_t pages);

/// What an Evaluator reads the tensors of a model directory with, as float32 values.
TensorReader checkpoint_reader(const std::filesystem::path& model_directory);

/// Feeds whole sequences through a runner: pages, positions and chunks are looked after here.
/// Sequence i owns pages [i * pages_per_seq, ...) and slot i.
class SequenceFeeder {
 public:
  SequenceFeeder(StepRunner& runner, int64_t sequences, int64_t max_length);

  /// Appends `tokens` to sequence `seq` in steps of as many tokens as the limits allow, wanting
  /// logits of every row. `forced`: rows of forced.N for these tokens.
  StepValues append(int64_t seq, std::span<const int32_t> tokens, bool with_probes,
                    const std::map<std::string, std::vector<int32_t>>& forced = {});
  /// One token for every sequence in one decode step; row i belongs to sequence i.
  StepValues decode(std::span<const int32_t> tokens, bool with_probes = false,
                    const std::map<std::string, std::vector<int32_t>>& forced = {});
  /// Several whole sequences in one step of unequal lengths. All must fit the limits. Values of all
  /// rows, in order.
  StepValues append_batch(const std::vector<std::span<const int32_t>>& tokens, bool with_probes,
                          const std::map<std::string, std::vector<int32_t>>& forced = {});
  void reset(int64_t seq) { lengths_.at(seq) = 0; }
  int64_t length(int64_t seq) const { return lengths_.at(seq); }

 private:
  void add_sequence(StepInputs& in, int64_t seq, std::span<const int32_t> tokens);
  StepRunner& runner_;
  int64_t pages_per_seq_, table_width_;
  std::vector<int64_t> lengths_;
};

}  // namespace shunt
