#include "tests/frontends/model_dir.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <sstream>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/file_reader.h"
#include "tests/paths.h"

namespace shunt {

using nlohmann::json;

ModelDir::ModelDir(const std::string& config) {
  static std::atomic<int> next{0};
  path_ = std::filesystem::temp_directory_path() /
          fmt::format("shunt_frontend_test_{}_{}", getpid(), next++);
  std::filesystem::create_directories(path_);
  write("config.json", config);
}

ModelDir::~ModelDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void ModelDir::write(const std::string& file, const std::string& text) const {
  std::ofstream(path_ / file, std::ios::binary) << text;
}

void ModelDir::write_tensors(const std::map<std::string, FakeTensor>& tensors) const {
  StoredTensors zeros;
  for (const auto& [name, tensor] : tensors) {
    int64_t bytes = dtype_bytes(tensor.dtype);
    for (const int64_t size : tensor.shape) bytes *= size;
    zeros[name] = {tensor.dtype, tensor.shape, std::string(static_cast<size_t>(bytes), '\0')};
  }
  write_tensors(zeros);
}

void ModelDir::write_tensors(const StoredTensors& tensors) const {
  json header = json::object();
  size_t offset = 0;
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const std::map<DType, std::string> names = {{DType::bf16, "BF16"}, {DType::f16, "F16"},
                                                {DType::f32, "F32"},   {DType::i64, "I64"},
                                                {DType::u8, "U8"},     {DType::f8e4m3, "F8_E4M3"}};
    header[name] = {{"dtype", names.at(tensor.dtype)},
                    {"shape", tensor.shape},
                    {"data_offsets", {offset, offset + tensor.bytes.size()}}};
    offset += tensor.bytes.size();
    data += tensor.bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string file(8, '\0');
  for (int i = 0; i < 8; ++i)
    file[static_cast<size_t>(i)] = static_cast<char>(text.size() >> (8 * i));
  write("model.safetensors", file + text + data);
}

StoredTensors read_tensors(const std::filesystem::path& directory) {
  StoredTensors out;
  const Checkpoint checkpoint = Checkpoint::open(directory);
  for (const TensorInfo& info : checkpoint.tensors()) {
    const FileReader file(directory / checkpoint.files()[static_cast<size_t>(info.file)].name);
    StoredTensor& t = out[info.name] = {info.dtype, info.shape,
                                        std::string(static_cast<size_t>(info.bytes), '\0')};
    file.read(info.offset, std::as_writable_bytes(std::span(t.bytes)));
  }
  return out;
}

ImportedModel ModelDir::import_dummy(FrontendOptions options) const {
  options.model_dir = path_;
  options.dummy_weights = true;
  return import_model(options, nullptr);
}

ImportedModel ModelDir::import(FrontendOptions options) const {
  options.model_dir = path_;
  const Checkpoint checkpoint = Checkpoint::open(path_);
  return import_model(options, &checkpoint);
}

std::string test_data(const std::string& relative) {
  const std::string path = std::string(source_dir()) + "/tests/data/" + relative;
  std::ifstream in(path, std::ios::binary);
  if (!in) throw InternalError("cannot open " + path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::vector<std::string> folders_with(const std::string& root, const std::string& file) {
  std::vector<std::string> names;
  const std::filesystem::path data = std::filesystem::path(source_dir()) / "tests/data" / root;
  for (const auto& entry : std::filesystem::directory_iterator(data)) {
    if (std::filesystem::exists(entry.path() / file))
      names.push_back(entry.path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

std::string edited(const std::string& config, const std::map<std::string, std::string>& edits) {
  json root = json::parse(config);
  for (const auto& [key, value] : edits) {
    if (value.empty()) {
      root.erase(key);
    } else {
      root[key] = json::parse(value);
    }
  }
  return root.dump(2);
}

std::map<std::string, FakeTensor> tensors_of(const std::string& conformance_case) {
  std::map<std::string, FakeTensor> out;
  const Checkpoint checkpoint =
      Checkpoint::open(std::string(source_dir()) + "/tests/data/conformance/" + conformance_case);
  for (const TensorInfo& info : checkpoint.tensors()) out[info.name] = {info.dtype, info.shape};
  return out;
}

}  // namespace shunt
