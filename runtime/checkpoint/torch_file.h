// Files of torch.save (.pt, since PyTorch 1.6): a zip archive with a pickle of everything but the
// tensors' bytes, and one stored entry a storage.
//
// Tensors and plain values are found by the path of keys that leads to them, joined by '.':
// "module.language_model.embedding.word_embeddings.weight" whether the keys are nested or flat.
// List and tuple elements have their index as key. Nothing of the pickle is ever called (pickle.h):
// a value of a foreign class is *opaque*, and asking for it, or for something under it, is a
// UserError that names the class.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/zip.h"

namespace shunt {

struct TorchValue {  // a number or text that is no tensor
  std::string path;
  std::optional<int64_t> integer;  // booleans too
  std::optional<double> real;      // integers too
  std::optional<std::string> text;
};

/// A value that cannot be used, and why; harmless unless it is needed.
struct TorchOpaque {
  std::string path;
  std::string reason;  // "it is made by os.system, ..."
};

struct TorchFile {
  std::string file;                 // for messages
  std::string digest;               // ZipDirectory::digest
  std::vector<TensorInfo> tensors;  // sorted by name; offsets absolute in the .pt, file = 0
  std::vector<UnreadableTensor> unreadable;
  std::vector<TorchValue> values;   // sorted by path
  std::vector<TorchOpaque> opaque;  // sorted by path

  /// Reads archive directory and pickle, no weights. `file` names the file in errors. Checked:
  /// every tensor lies in its storage, every storage in its archive entry. Throws UserError.
  static TorchFile parse(const ByteSource& source, const std::string& file);
  static TorchFile open(const FileReader& file);

  /// The tensor at `path`, or nullptr. Throws UserError if the path is opaque or leads through
  /// something opaque, or if the tensor is of a type that is not read.
  const TensorInfo* find(std::string_view path) const;
  /// The same for plain values.
  const TorchValue* find_value(std::string_view path) const;

 private:
  void require_clear(std::string_view path) const;
};

}  // namespace shunt
