// Opens a model directory: one safetensors file, or shards and their index. Entry point:
// Checkpoint::open(). Tested by tests/runtime/checkpoint/checkpoint_test.cpp.
#include "runtime/checkpoint/checkpoint.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "ir/error.h"
#include "runtime/checkpoint/file_reader.h"
#include "runtime/checkpoint/safetensors.h"
#include "runtime/checkpoint/strict_json.h"
#include "runtime/checkpoint/torch_file.h"

namespace shunt {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kDeepspeed = "ds_inference_config.json";

/// A shard must be a file of the model directory itself, or the index could make us read any file
/// of the machine.
void check_shard_name(const std::string& shard, const std::string& tensor,
                      const std::string& index) {
  const bool plain =
      shard.find('/') == std::string::npos && shard.find('\\') == std::string::npos &&
      shard.find('\0') == std::string::npos && shard != "." && shard != ".." && !shard.empty();
  if (!plain) {
    user_error(
        "{}: tensor {} is in shard {}, which leaves the model directory; shards must be plain file "
        "names",
        index, quote_name(tensor), quote_name(shard));
  }
  if (!shard.ends_with(".safetensors")) {
    user_error(
        "{}: tensor {} is in shard {}, which is not a .safetensors file; convert the model to "
        "safetensors",
        index, quote_name(tensor), quote_name(shard));
  }
}

/// tensor -> shard, checked but for the shards' contents.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const JsonLimits limits{.max_bytes = kMaxSafetensorsHeader, .max_depth = 16};
  const std::string file = path.string();
  const json index = parse_strict_json(read_text_file(path, limits.max_bytes), file, limits);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    user_error("{}: no object 'weight_map'; this is not an index of safetensors shards", file);
  }
  std::map<std::string, std::string> weight_map;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    if (!shard.is_string())
      user_error("{}: weight_map: tensor {} has no file name", file, quote_name(tensor));
    check_shard_name(shard.get_ref<const std::string&>(), tensor, file);
    weight_map.emplace(tensor, shard.get<std::string>());
  }
  if (weight_map.empty()) user_error("{}: weight_map is empty; fetch the index again", file);
  return weight_map;
}

[[noreturn]] void no_checkpoint(const fs::path& dir) {
  std::error_code ignored;
  if (!fs::is_directory(dir, ignored)) user_error("{}: no such model directory", dir.string());
  if (fs::exists(dir / "pytorch_model.bin", ignored) ||
      fs::exists(dir / "pytorch_model.bin.index.json", ignored)) {
    user_error(
        "{}: has only pytorch_model.bin, which Shunt does not read (it can run code); convert it "
        "to {}",
        dir.string(), kSingle);
  }
  user_error("{}: has neither {} nor {}; check the path and that the download is complete",
             dir.string(), kSingle, kIndex);
}

template <class T>
const T* find_by_name(const std::vector<T>& sorted, std::string_view name) {
  const auto it = std::ranges::lower_bound(sorted, name, {},
                                           [](const T& t) { return std::string_view(t.name); });
  return it != sorted.end() && it->name == name ? &*it : nullptr;
}

}  // namespace

Checkpoint::Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Checkpoint Checkpoint::open(const fs::path& model_dir) {
  Checkpoint checkpoint;
  checkpoint.directory = model_dir.string();
  std::error_code ignored;
  if (fs::exists(model_dir / kSingle, ignored)) {
    checkpoint.add_file(kSingle);
    checkpoint.finish();
    return checkpoint;
  }
  if (!fs::exists(model_dir / kIndex, ignored) && fs::exists(model_dir / kDeepspeed, ignored)) {
    std::set<std::string> files;
    for (const auto& entry : fs::directory_iterator(model_dir)) {
      const std::string name = entry.path().filename().string();
      if (name.ends_with(".pt") && !name.ends_with("optim_states.pt")) files.insert(name);
    }
    if (files.empty()) {
      user_error("{}: has {} and no .pt file; check the path and that the download is complete",
                 model_dir.string(), kDeepspeed);
    }
    for (const std::string& name : files) checkpoint.add_torch_file(name);
    checkpoint.finish();
    return checkpoint;
  }
  if (!fs::exists(model_dir / kIndex, ignored)) no_checkpoint(model_dir);

  const std::string index = (model_dir / kIndex).string();
  const auto weight_map = read_index(index);
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : weight_map) {
    if (shards.insert(shard).second && !fs::exists(model_dir / shard, ignored)) {
      user_error("{}: tensor {} is in shard {}, which does not exist; fetch the missing file",
                 index, quote_name(tensor), quote_name(shard));
    }
  }
  for (const std::string& shard : shards) checkpoint.add_file(shard);
  checkpoint.finish();

  for (const auto& [tensor, shard] : weight_map) {
    int file = -1;
    if (const auto* found = find_by_name(checkpoint.tensors_, tensor)) file = found->file;
    if (const auto* found = find_by_name(checkpoint.unreadable_, tensor)) file = found->file;
    if (file < 0 || checkpoint.files_[static_cast<size_t>(file)].name != shard) {
      user_error(
          "{}: tensor {} is not in shard {}; the index and the shards do not belong together",
          index, quote_name(tensor), quote_name(shard));
    }
  }
  return checkpoint;
}

void Checkpoint::add_file(const std::string& name) {
  const FileReader reader(fs::path(directory) / name);
  SafetensorsHeader header = read_safetensors_header(reader);
  const int file = static_cast<int>(files_.size());
  for (TensorInfo& tensor : header.tensors) {
    tensor.file = file;
    tensors_.push_back(std::move(tensor));
  }
  for (UnreadableTensor& tensor : header.unreadable) {
    tensor.file = file;
    unreadable_.push_back(std::move(tensor));
  }
  files_.push_back({name, reader.size(), std::move(header.digest)});
}

void Checkpoint::add_torch_file(const std::string& name) {
  const FileReader reader(fs::path(directory) / name);
  TorchFile file = TorchFile::open(reader);
  const int index = static_cast<int>(files_.size());
  for (TensorInfo tensor : file.tensors) {
    tensor.name = name + ":" + tensor.name;
    tensor.file = index;
    tensors_.push_back(std::move(tensor));
  }
  for (const UnreadableTensor& tensor : file.unreadable) {
    unreadable_.push_back({name + ":" + tensor.name, tensor.dtype, index});
  }
  files_.push_back({name, reader.size(), file.digest});
  torch_files_.push_back(std::move(file));
}

void Checkpoint::finish() {
  std::ranges::sort(tensors_, {}, &TensorInfo::name);
  std::ranges::sort(unreadable_, {}, &UnreadableTensor::name);
  std::map<std::string_view, int> seen;  // name -> file
  auto check = [&](const std::string& name, int file) {
    const auto [it, fresh] = seen.emplace(name, file);
    if (fresh) return;
    user_error(
        "{}: tensor {} is also in {}; a tensor must be in one shard only, fetch the files again",
        (fs::path(directory) / files_[static_cast<size_t>(file)].name).string(), quote_name(name),
        files_[static_cast<size_t>(it->second)].name);
  };
  for (const TensorInfo& tensor : tensors_) check(tensor.name, tensor.file);
  for (const UnreadableTensor& tensor : unreadable_) check(tensor.name, tensor.file);
}

const TensorInfo* Checkpoint::find(std::string_view name) const {
  if (const auto* found = find_by_name(unreadable_, name)) {
    user_error(
        "{}: tensor {} has dtype {}, which Shunt does not read (it reads F32, F16, BF16, I64, I32, "
        "U8, F8_E4M3); "
        "convert the checkpoint",
        (fs::path(directory) / files_[static_cast<size_t>(found->file)].name).string(),
        quote_name(name), found->dtype);
  }
  return find_by_name(tensors_, name);
}

}  // namespace shunt
