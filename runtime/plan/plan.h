// The plan: what the compiler hands to the runtime. A folder with plan.json (this struct, readable
// and diffable) and kernels/<digest>.{cu,cubin}. Plain data; all checking is in validate(), which
// runs at load. The same input gives the same plan, byte for byte: no times, no absolute paths but
// the checkpoint's.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "ir/dim.h"
#include "ir/mesh.h"
#include "ir/types.h"

namespace shunt {

/// Raised by one on every change of the format; load_plan() accepts this number only.
inline constexpr int kPlanFormat = 6;

enum class Arena : uint8_t {
  weights,    // parameters, written by the load program
  workspace,  // values of one step; programs share it, each with a layout of its own
  io,         // step inputs and outputs, the same for all programs; mirrored in pinned host memory
  counters,   // zero at load; steps only ever add to them, and no step reads them
  peer,  // what other ranks of the node write into, and epochs: zero at load, one place for all
         // programs, and no two buffers share a byte (docs/ranks.md)
};
inline constexpr size_t kArenas = 5;

/// A region of an arena, sized at the upper bounds of its dims. Offsets are multiples of 256 bytes.
/// One of the counters arena is i64[experts]: routes to each expert of the MoE layer whose gate has
/// the loc that is the buffer's name, since load.
struct Buffer {
  std::string name;
  Arena arena = Arena::workspace;
  int64_t offset = 0;
  int64_t bytes = 0;
  Type type;
  bool operator==(const Buffer&) const = default;
};

/// Memory that lives across steps, all states one after another. Paged: a `row` a token, in pages
/// of plan.limits.page_size rows, whose number is bound at load; one array [pages, page_size,
/// row...]. Slot: a row a sequence; one array [plan.limits.max_num_seqs, row...]. Either has a
/// spare page or row behind it, which padded sequences name.
struct StateDecl {
  std::string name;
  Type row;
  StateKind kind = StateKind::paged;
  bool operator==(const StateDecl&) const = default;
};

/// One kernel argument (also: one slot of a host kernel's argument list).
struct Arg {
  enum class Kind : uint8_t {
    buffer,  // address of buffers[index] + offset
    state,   // address of states[index]
    i32,
    i64,      // value of `dim`
    f32,      // `number`
    dim_ptr,  // address of the int32 value of dims[index] in device memory: the true value inside a
              // graph bucket
    rank,     // this rank's value of rank_tables[index], an int32
    peers,    // address of a PeerTable (runtime/plan/peer_table.h) of buffers[index], in the peer
              // arena, over the ranks of this rank's group along `over`
    expr,     // host kernels only: `text` is an Expr
    null,     // an absent operand
  };
  Kind kind = Kind::null;
  int index = -1;
  int64_t offset = 0;
  DimExpr dim;
  double number = 0;
  std::string text;
  MeshAxis over = MeshAxis::world;  // peers
  bool operator==(const Arg&) const = default;
};

struct Kernel {
  std::string name;    // "linear_gemv"; of a host kernel, its name in SHUNT_HOST_KERNELS
  std::string digest;  // of the source: kernels/<digest>.cu and .cubin; empty for a host kernel
  bool is_host() const { return digest.empty(); }
  bool operator==(const Kernel&) const = default;
};

// ---- steps: a closed set ----

struct Launch {
  int kernel = -1;
  std::array<DimExpr, 3> grid{DimExpr(1), DimExpr(1), DimExpr(1)};
  int threads = 0;
  int64_t smem = 0;  // dynamic shared memory, bytes
  int cluster = 1;
  bool dependent =
      false;  // programmatic dependent launch: may start before the previous kernel ends
  std::vector<Arg> args;
  bool operator==(const Launch&) const = default;
};

/// d[m, n] = x[m, k] . w[n, k]^T (+ c[m, n]) (+ bias[n]), row-major, float32 accumulation, through
/// cuBLASLt.
struct Matmul {
  Arg x, w, c, bias, d;
  DType x_type = DType::bf16, w_type = DType::bf16, d_type = DType::bf16;
  DimExpr m;
  int64_t n = 0, k = 0;
  int64_t workspace_bytes = 0;
  Arg workspace;
  bool operator==(const Matmul&) const = default;
};

struct Copy {
  Arg from, to;
  DimExpr bytes;
  bool operator==(const Copy&) const = default;
};

struct Fill {
  Arg to;
  DimExpr bytes;
  int value = 0;  // every byte
  bool operator==(const Fill&) const = default;
};

/// A literal table (rotary frequencies): written once by the load program.
struct Constant {
  Arg to;
  std::vector<float> values;
  bool operator==(const Constant&) const = default;
};

/// How the loader expands a Read of a quantised matrix: element (n, k) is the payload's times the
/// scale of group (n / group_rows, k / group_columns). Row r of the Read is row
/// first_row + r * row_step of the matrix, its columns likewise.
struct Dequantize {
  DType payload = DType::f8e4m3;  // or u8: two e2m1 a byte, the first in the low half
  DType scale = DType::f32;       // f16, bf16, or u8: exponents e8m0
  DType result = DType::bf16;     // or f32, f16; of Read::element_bytes
  int scale_file = -1;            // index into plan.files
  std::string scale_tensor;       // for messages
  int64_t scale_offset = 0;       // bytes in the file, of the matrix's first group
  int64_t scale_pitch = 0;        // from one row of groups to the next, bytes
  int64_t group_rows = 1, group_columns = 1;
  int64_t first_row = 0, row_step = 1;
  int64_t first_column = 0, column_step = 1;
  bool operator==(const Dequantize&) const = default;
};

/// Part of a checkpoint tensor into a parameter: `rows` runs of `row_bytes`, `from_pitch` apart in
/// the file and `to_pitch` apart in memory. With `transpose_rows` > 0 (then equal to rows) element
/// (r, c) of the source goes to (c, r): `to_pitch` is then from one column of the source to the
/// next. With `dequantize`, `from_offset` is where the whole payload matrix begins, `from_pitch`
/// from one of its rows to the next, and `from_stride` 0; `row_bytes` and `element_bytes` are the
/// result's.
struct Read {
  int file = -1;            // index into plan.files
  std::string tensor;       // for messages
  int64_t from_offset = 0;  // bytes in the file
  int64_t from_pitch = 0;
  int64_t from_stride = 0;  // from one element of a row to the next, bytes; 0: they are adjacent
  Arg to;                   // a weights buffer
  int64_t to_pitch = 0;
  int64_t rows = 1;
  int64_t row_bytes = 0;
  int64_t transpose_rows = 0;
  int64_t element_bytes = 2;
  std::optional<Dequantize> dequantize = {};
  bool operator==(const Read&) const = default;
};

/// Data moves between the ranks of a group; all of them have the step at the same place.
struct Collective {
  enum class Kind : uint8_t { all_reduce, all_gather, reduce_scatter, all_to_all };
  Kind kind = Kind::all_reduce;
  MeshAxis over = MeshAxis::world;
  Arg from, to;
  DimExpr count;  // elements of one rank's part: all_reduce of all, all_gather of `from`,
                  // reduce_scatter of `to`, all_to_all of what goes to one rank
  DType dtype = DType::f32;
  bool operator==(const Collective&) const = default;
};

using StepKind = std::variant<Launch, Matmul, Copy, Fill, Constant, Read, Collective>;

struct Step {
  StepKind what;
  std::string name;  // "linear.cublaslt"
  std::string loc;   // "model.layers.0.mlp"
  DimExpr bytes;     // moved, counting each operand once
  DimExpr flops;
  int rank = -1;            // load program: the only rank that has this step; -1: all
  std::vector<int> writes;  // buffers this step defines; `verify` and --trace find values by them
  bool operator==(const Step&) const = default;
};

/// One graph lowered for one range of its dims.
struct Program {
  std::string name;           // "load", "step.decode.8", "step.prefill.2048", "sample"
  std::string graph;          // "load", "step" or "sample"
  bool decode = false;        // every sequence has exactly one new token
  std::vector<DimDecl> dims;  // ranges under which this program is valid; step: T, S, R
  std::vector<Step> steps;
  int64_t workspace_bytes = 0;
  bool operator==(const Program&) const = default;
};

/// A step input or output by role, in the io arena; "tokens", "positions", "logits", "ids", ...
/// (docs/plan.md).
struct Port {
  std::string role;
  int buffer = -1;
  bool output = false;
  bool operator==(const Port&) const = default;
};

struct PlanFile {
  std::string name;  // relative to the model directory
  int64_t size = 0;
  std::string header_digest;
  bool operator==(const PlanFile&) const = default;
};

struct Limits {
  int64_t max_model_len = 0;           // tokens of a sequence, prompt and output
  int64_t max_num_seqs = 0;            // sequences in a batch
  int64_t max_num_batched_tokens = 0;  // tokens in a step
  int64_t max_logit_rows = 0;          // rows in a step that get logits
  int64_t page_size = 0;               // rows of a page of state
  bool operator==(const Limits&) const = default;
};

/// What the engine needs to know of the model besides the graph.
struct ModelInfo {
  std::string name;  // model_type and size, for people
  int64_t vocab_size = 0;
  std::vector<int64_t> eos_ids;
  int64_t bos_id = -1;  // -1: none
  int64_t layers = 0;
  int64_t experts = 0;  // of the largest MoE layer; 0 for a dense model
  int64_t experts_per_token = 0;
  int64_t moe_layers = 0;
  int64_t parameters = 0;         // elements of all parameters
  int64_t active_parameters = 0;  // of those a token uses
  bool operator==(const ModelInfo&) const = default;
};

struct Plan {
  int format = kPlanFormat;
  std::string compiler;          // Shunt's version
  std::string target;            // "cpu", "sm_90a", ...
  std::string activation_dtype;  // "f32", "bf16", "f16"
  std::string model_directory;   // absolute path of the checkpoint; empty with --dummy-weights
  ModelInfo model;
  Limits limits;
  Mesh mesh;                            // of the ranks that run this plan, one and the same on all
  std::vector<std::string> kept_whole;  // what ranks along tp could split and do not, by name
  std::vector<std::vector<int64_t>> rank_tables;  // a value a rank, for Arg::Kind::rank
  std::vector<DimDecl> dims;
  std::vector<PlanFile> files;
  std::vector<Buffer> buffers;
  std::vector<StateDecl> states;
  std::vector<Port> ports;
  std::vector<Kernel> kernels;
  std::vector<Program> programs;
  int64_t weights_bytes = 0, workspace_bytes = 0, io_bytes = 0;  // arena sizes
  int64_t counters_bytes = 0, peer_bytes = 0;
  bool operator==(const Plan&) const = default;

  /// Bytes of one page over all paged states.
  int64_t page_bytes() const;
  /// Bytes of one sequence's rows over all slot states.
  int64_t slot_bytes() const;
  /// Index of the port with that role, or -1.
  int find_port(const std::string& role) const;
};

/// Throws UserError (incompatible_plan) with the path of what is wrong
/// ("programs[3].steps[17].args[2]").
void validate(const Plan& plan);

/// JSON text of a plan and back. The reader is strict: an unknown or missing key is an error with
/// its path.
std::string to_json(const Plan& plan);
Plan plan_from_json(const std::string& text);

/// Reads `directory`/plan.json and validates it. Does not read the kernels.
Plan load_plan(const std::filesystem::path& directory);

}  // namespace shunt
