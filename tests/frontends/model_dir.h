// A model directory in the temporary folder, for tests: config.json and, if wanted, zero-filled
// safetensors.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "frontends/frontend.h"
#include "ir/types.h"

namespace shunt {

struct FakeTensor {
  DType dtype = DType::bf16;
  std::vector<int64_t> shape;
};

/// A tensor and its bytes.
struct StoredTensor {
  DType dtype = DType::bf16;
  std::vector<int64_t> shape;
  std::string bytes;
};
using StoredTensors = std::map<std::string, StoredTensor>;

/// The tensors of a model directory.
StoredTensors read_tensors(const std::filesystem::path& directory);

/// Removed with its files when it goes out of scope.
class ModelDir {
 public:
  explicit ModelDir(const std::string& config);
  ~ModelDir();
  ModelDir(const ModelDir&) = delete;
  ModelDir& operator=(const ModelDir&) = delete;

  void write(const std::string& file, const std::string& text) const;
  /// model.safetensors with these tensors, all bytes zero.
  void write_tensors(const std::map<std::string, FakeTensor>& tensors) const;
  void write_tensors(const StoredTensors& tensors) const;
  const std::filesystem::path& path() const { return path_; }

  /// Imports with dummy weights.
  ImportedModel import_dummy(FrontendOptions options = {}) const;
  /// Opens the checkpoint and imports.
  ImportedModel import(FrontendOptions options = {}) const;

 private:
  std::filesystem::path path_;
};

/// tests/data/<relative>, as text.
std::string test_data(const std::string& relative);

/// Names of the folders of tests/data/<root> that hold `file`, sorted.
std::vector<std::string> folders_with(const std::string& root, const std::string& file);

/// `config` (JSON text) with keys set to JSON values; a value of "" removes the key.
std::string edited(const std::string& config, const std::map<std::string, std::string>& edits);

/// What UserError `f` throws says; empty if it throws none.
template <class F>
std::string user_error_of(F&& f);

/// Tensors a checkpoint of that directory under tests/data/conformance has.
std::map<std::string, FakeTensor> tensors_of(const std::string& conformance_case);

}  // namespace shunt

#include "ir/error.h"

template <class F>
std::string shunt::user_error_of(F&& f) {
  try {
    f();
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}
