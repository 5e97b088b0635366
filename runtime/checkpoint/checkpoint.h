// The tensors of a model directory: names, types, shapes and where their bytes lie. Reads headers,
// no weights.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "ir/types.h"

namespace shunt {

struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;  // row-major; empty: a scalar
  int file = 0;                // index into Checkpoint::files()
  int64_t offset = 0;          // bytes from the start of the file; not necessarily aligned
  int64_t bytes = 0;           // product of shape * dtype_bytes(dtype)
};

/// A tensor of a type that the format knows and Shunt does not read. Harmless unless the model
/// needs it.
struct UnreadableTensor {
  std::string name;
  std::string dtype;  // as in the file: "I8", "F64", ...
  int file = 0;
};

struct CheckpointFile {
  std::string name;           // relative to the directory
  int64_t size = 0;           // bytes
  std::string header_digest;  // SHA-256, lowercase hex, of the 8 length bytes and the header
};

struct TorchFile;

class Checkpoint {
 public:
  Checkpoint();
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();
  /// Reads `model.safetensors`, or else the shards that `model.safetensors.index.json` names, of
  /// `model_dir`. Everything is checked (docs: safetensors.h); throws UserError that names file and
  /// tensor or key. With a ds_inference_config.json instead: the folder's .pt files but those of
  /// optimizers; a tensor's name is then "<file>:<path>" (torch_file.h), since the shards of
  /// tensor parallelism hold the same names.
  static Checkpoint open(const std::filesystem::path& model_dir);

  /// The tensor, or null if there is none of that name. Valid as long as the Checkpoint.
  /// Throws UserError if there is one, but of a type that Shunt does not read.
  const TensorInfo* find(std::string_view name) const;

  /// All readable tensors, sorted by name.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  /// Tensors of other types (BOOL, I8, F64, ...), sorted by name.
  const std::vector<UnreadableTensor>& unreadable() const { return unreadable_; }
  /// The safetensors files, sorted by name.
  const std::vector<CheckpointFile>& files() const { return files_; }

  /// Of a DeepSpeed folder: the .pt files, by index into files(); else empty.
  const std::vector<TorchFile>& torch_files() const { return torch_files_; }

  std::string directory;

 private:
  void add_torch_file(const std::string& name);
  /// Reads the header of `directory`/`name` and appends its tensors.
  void add_file(const std::string& name);
  /// Sorts by name; throws UserError if a name is in two files.
  void finish();

  std::vector<TensorInfo> tensors_;
  std::vector<UnreadableTensor> unreadable_;
  std::vector<CheckpointFile> files_;
  std::vector<TorchFile> torch_files_;
};

}  // namespace shunt
