// Megatron-DeepSpeed checkpoints: one .pt file a rank of tensor parallelism, and one a rank and
// expert. Joins the parts and gives them the names that deepspeed/config.cpp puts into the
// Architecture:
//   embedding, positions.weight, final_norm.*, lm_head,
//   layers.N.<as in the file>, and made from others:
//   layers.N.attention.{q,k,v}.*     rows of query_key_value
//   layers.N.mlp.{up,gate}.weight    halves of a gated dense_h_to_4h
//   layers.N.experts.*.{up,down}.*   of all expert files
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "frontends/deepspeed/config.h"
#include "frontends/weights.h"
#include "runtime/checkpoint/checkpoint.h"

namespace shunt::deepspeed {

class Shards : public TensorSource {
 public:
  /// Finds the naming in use. `checkpoint` must outlive this.
  Shards(const Checkpoint& checkpoint, const CheckpointSpec& spec, int64_t heads);

  bool has(const std::string& name) const override;
  ir::Value* load(ir::GraphBuilder& builder, const std::string& name,
                  const std::vector<int64_t>& shape) override;
  std::vector<UnusedTensor> unused() const override;

  bool is_moe(int64_t layer) const;
  /// Rows of the embedding table, all ranks together.
  int64_t vocabulary() const;
  /// Element type of the embedding table.
  DType dtype() const;

 private:
  using Shape = std::vector<int64_t>;
  struct Part {
    std::string name;  // "<file>:<path>"
    const TensorInfo* info = nullptr;
  };

  const TensorInfo* find(size_t rank, const std::string& path) const;
  Part main_part(size_t rank, const std::string& path) const;
  Part expert_part(size_t rank, int64_t layer, int64_t expert, const std::string& leaf) const;
  std::string path_of(const std::string& name) const;
  ir::Value* read(ir::GraphBuilder& builder, const Part& part, const Shape& shape);
  /// What is replicated: the first rank's.
  ir::Value* read_first(ir::GraphBuilder& builder, const std::vector<Part>& parts,
                        const Shape& shape);
  ir::Value* join(ir::GraphBuilder& builder, const std::vector<Part>& parts, int64_t axis,
                  const Shape& shape, bool may_be_whole);
  std::vector<Part> all_ranks(const std::string& path) const;
  ir::Value* load_qkv(ir::GraphBuilder& builder, const std::string& path, int64_t which,
                      const Shape& shape);
  ir::Value* load_half(ir::GraphBuilder& builder, const std::string& path, int64_t which,
                       const Shape& shape);
  ir::Value* load_experts(ir::GraphBuilder& builder, int64_t layer, const std::string& leaf,
                          const Shape& shape);
  ir::Value* load_vocabulary(ir::GraphBuilder& builder, const std::string& path,
                             const Shape& shape);

  const Checkpoint& checkpoint_;
  const CheckpointSpec& spec_;
  int64_t heads_;
  std::vector<size_t> ranks_;  // index of each rank's main file
  std::string prefix_;         // "module.language_model."
  std::string stack_;          // "encoder." or "transformer."
  std::string attention_;      // "attention" or "self_attention"
  std::string moe_;            // "mlp.deepspeed_moe" or "mlp.moe.deepspeed_moe"
  double version_ = 0;
  std::set<std::string> used_, copies_;
};

}  // namespace shunt::deepspeed
