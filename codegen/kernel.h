// Kernel selection: one table row per way of computing an op, and what a row may use to emit plan
// steps.
//
// To add a variant: write the device code in codegen/kernels/, add a row in
// codegen/emit/<family>.cpp. A row's name is
// "<op>.<variant>"; `lower` takes, for each op, the supporting row with the least `seconds`.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ir/module.h"
#include "ir/target.h"
#include "runtime/plan/plan.h"

namespace shunt::codegen {

/// What selection may look at besides the op: all known at compile time.
struct Context {
  const Target& target;
  const ir::Module& module;
  const ir::Graph& graph;
  DimEnv upper;         // upper bounds of all dims in this graph
  bool decode = false;  // every sequence has one token: T == S
  int64_t page_size = 64;
  int64_t max_model_len = 0;
  bool peer_memory = false;  // kernels may reach the memory of other ranks (PeerTable)

  /// Upper bound of a size in this graph.
  int64_t bound(const Dim& dim) const { return dim.evaluate(upper); }
};

class StepBuilder;

struct KernelImpl {
  std::string_view name;
  ir::OpKind op;
  bool (*supports)(const ir::Op&, const Context&);   // pure
  double (*seconds)(const ir::Op&, const Context&);  // at the upper bounds
  void (*emit)(const ir::Op&, StepBuilder&);
};

/// Rows of every family, in a fixed order (the first of equals wins).
std::vector<KernelImpl> all_kernels();
/// The cheapest supporting row, or the one named `only` if it supports the op. Throws UserError
/// naming the op, its types and the target if there is none.
const KernelImpl& select(const ir::Op& op, const Context& context, std::string_view only = {});
/// max(bytes / bandwidth, flops / rate) + launch overhead, from cost_<op> at the upper bounds.
double roofline_seconds(const ir::Op& op, const Context& context, bool tensor_cores,
                        double bandwidth_share = 0.8, double compute_share = 0.6);

/// One template argument, by name: becomes `static constexpr auto kBlockM = 64;` or `using Out =
/// shunt::bf16;`.
struct TemplateArg {
  std::string name;
  std::string value;
  bool is_type = false;
  static TemplateArg number(std::string name, int64_t value);
  static TemplateArg real(std::string name, double value);  // float32 literal, exact
  static TemplateArg boolean(std::string name, bool value);
  static TemplateArg type(std::string name, std::string value);
  static TemplateArg type(std::string name, DType dtype);  // shunt::bf16, shunt::f16, float, int
};

/// A kernel to compile: an #include, a Config struct of named arguments, and an extern "C"
/// __global__ that calls `shunt::<function><Config>(args...)`. `parameters` is the C++ parameter
/// list ("const shunt::bf16* x, int T").
struct KernelSource {
  std::string name;      // also the symbol
  std::string header;    // "gemv.cuh"
  std::string function;  // "gemv"
  std::vector<TemplateArg> config;
  std::string extra;  // more members of Config, e.g. an epilogue functor
  std::string parameters;
  int max_threads = 0;  // __launch_bounds__
  int min_blocks = 1;
  std::string text() const;
};

/// Receives the steps of one op. Values are named by ir::Value; the lowering resolves them to
/// buffers.
class StepBuilder {
 public:
  virtual ~StepBuilder() = default;
  virtual const Context& context() const = 0;

  /// Address of a value, parameter or state; Arg::null for nullptr.
  virtual Arg arg(const ir::Value* value) = 0;
  /// Memory for this op alone, 256-byte aligned.
  virtual Arg scratch(int64_t bytes) = 0;
  /// Address of the true value of a dim, in device memory.
  virtual Arg dim_ptr(std::string_view dim) = 0;
  /// Where the gate of a MoE layer counts its routes: int64[experts], one array for all gates at
  /// this op's loc (the same gate in other regimes). To be added to, atomically or by its only
  /// writer, once for every route that an expert computes: not for padded tokens, not for dropped
  /// routes.
  virtual Arg route_counts(int64_t experts) = 0;
  /// A number that differs between ranks, as an int32: by rank of the world.
  virtual Arg rank_value(const std::vector<int64_t>& by_rank) = 0;
  /// Memory in the peer arena that all ops and programs share by `role` ("dispatch.rows"), with
  /// room for the largest `bytes` that any of them asks for: what other ranks of one axis push to
  /// this rank, or counters of epochs. Zero at load, at the same place in all programs, and apart
  /// from every other role. A role is for one axis. Only where context().peer_memory.
  virtual Arg peer_buffer(std::string_view role, int64_t bytes) = 0;
  /// Address of the PeerTable (codegen/kernels/ptx/peer.cuh) of a peer_buffer over the ranks along
  /// `over`, of which there must be 2 to kMaxPeers.
  virtual Arg peers(MeshAxis over, const Arg& buffer) = 0;
  static Arg i32(const DimExpr& value);
  static Arg i64(const DimExpr& value);
  static Arg f32(double value);
  static Arg expr(const std::string& text);

  struct LaunchSpec {
    std::array<DimExpr, 3> grid{DimExpr(1), DimExpr(1), DimExpr(1)};
    int threads = 0;
    int64_t smem = 0;
    bool dependent = false;
    std::vector<Arg> args;
  };
  virtual void launch(const KernelSource& kernel, LaunchSpec spec) = 0;
  virtual void host_call(std::string_view host_kernel, std::vector<Arg> args) = 0;
  virtual void matmul(Matmul matmul) = 0;
  virtual void copy(Copy copy) = 0;
  virtual void fill(Fill fill) = 0;
  virtual void collective(Collective collective) = 0;
};

}  // namespace shunt::codegen
