// Readers of the two golden formats. Entry point load_golden(); tested by
// tests/tools/verify_test.cpp.
#include "tools/golden.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "ir/error.h"
#include "runtime/checkpoint/file_reader.h"
#include "runtime/checkpoint/safetensors.h"

namespace shunt {

namespace {

namespace fs = std::filesystem;

class TensorFile {
 public:
  explicit TensorFile(const fs::path& path)
      : reader_(path), header_(read_safetensors_header(reader_)) {}

  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }

  const TensorInfo* find(const std::string& name) const {
    for (const TensorInfo& t : header_.tensors) {
      if (t.name == name) return &t;
    }
    return nullptr;
  }

  const TensorInfo& get(const std::string& name, DType dtype, size_t rank) const {
    const TensorInfo* t = find(name);
    if (t == nullptr)
      user_error("{}: no tensor '{}': this is no golden file", reader_.path(), name);
    if (t->dtype != dtype || t->shape.size() != rank) {
      user_error("{}: tensor '{}' must be {} of rank {}", reader_.path(), name, dtype_name(dtype),
                 rank);
    }
    return *t;
  }

  template <class T>
  std::vector<T> read(const TensorInfo& t) const {
    std::vector<T> out(t.bytes / sizeof(T));
    reader_.read(t.offset, std::as_writable_bytes(std::span(out)));
    return out;
  }

 private:
  FileReader reader_;
  SafetensorsHeader header_;
};

Matrix rows_of(const std::vector<float>& all, int64_t first, int64_t rows, int64_t cols) {
  const auto begin = all.begin() + first * cols;
  return {rows, cols, std::vector<float>(begin, begin + rows * cols)};
}

/// Ids that 32 bits cannot hold become -1, which no vocabulary has.
std::vector<int32_t> narrow_ids(const std::vector<int64_t>& all, int64_t first, int64_t count) {
  std::vector<int32_t> out(count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t id = all[first + i];
    out[i] = id == static_cast<int32_t>(id) ? static_cast<int32_t>(id) : -1;
  }
  return out;
}

std::vector<GoldenSequence> load_tensors(const fs::path& path) {
  const TensorFile file(path);
  const TensorInfo& ids = file.get("input_ids", DType::i64, 2);
  const int64_t n = ids.shape[0], length = ids.shape[1];
  const std::vector<int64_t> all_ids = file.read<int64_t>(ids);
  const TensorInfo& logits = file.get("logits", DType::f32, 3);
  if (logits.shape[0] != n || logits.shape[1] != length) {
    user_error("{}: tensor 'logits' is not [{}, {}, vocabulary] as input_ids says", path.string(),
               n, length);
  }
  const std::vector<float> all_logits = file.read<float>(logits);
  std::vector<GoldenSequence> out(n);
  for (int64_t i = 0; i < n; ++i) {
    out[i].name = fmt::format("sequence {}", i);
    out[i].ids = narrow_ids(all_ids, i * length, length);
    out[i].logits = rows_of(all_logits, i * length, length, logits.shape[2]);
  }
  for (const TensorInfo& t : file.tensors()) {
    if (!t.name.starts_with("hidden.") && !t.name.starts_with("router_logits.")) continue;
    if (t.dtype != DType::f32 || t.shape.empty() || t.bytes != n * length * t.shape.back() * 4) {
      user_error("{}: tensor '{}' must be f32 with {} rows, as input_ids says", path.string(),
                 t.name, n * length);
    }
    const std::vector<float> all = file.read<float>(t);
    for (int64_t i = 0; i < n; ++i) {
      out[i].probes[t.name] = rows_of(all, i * length, length, t.shape.back());
    }
  }
  if (file.find("greedy_ids") == nullptr) return out;
  const TensorInfo& greedy = file.get("greedy_ids", DType::i64, 2);
  const int64_t g = greedy.shape[1];
  const std::vector<int64_t> greedy_ids = file.read<int64_t>(greedy);
  const TensorInfo& margins = file.get("greedy_margin", DType::f32, 2);
  if (greedy.shape[0] != n || margins.shape != greedy.shape) {
    user_error("{}: tensors 'greedy_ids' and 'greedy_margin' must be [{}, {}]", path.string(), n,
               g);
  }
  const std::vector<float> margin = file.read<float>(margins);
  for (int64_t i = 0; i < n; ++i) {
    out[i].greedy_ids = narrow_ids(greedy_ids, i * g, g);
    out[i].greedy_margin.assign(margin.begin() + i * g, margin.begin() + (i + 1) * g);
  }
  return out;
}

std::vector<GoldenSequence> load_json(const fs::path& path) {
  std::ifstream stream(path);
  if (!stream) user_error("{}: cannot be opened", path.string());
  std::vector<GoldenSequence> out;
  try {
    const nlohmann::json json = nlohmann::json::parse(stream);
    for (const auto& prompt : json.at("prompts")) {
      GoldenSequence& s = out.emplace_back();
      s.name = fmt::format("prompt {}", out.size() - 1);
      s.ids = prompt.at("input_ids").get<std::vector<int32_t>>();
      s.greedy_ids = prompt.at("greedy_ids").get<std::vector<int32_t>>();
      s.greedy_margin = prompt.at("greedy_margin").get<std::vector<float>>();
    }
  } catch (const nlohmann::json::exception&) {
    user_error(
        "{}: not a golden file: it must be JSON with \"prompts\", each with \"input_ids\", "
        "\"greedy_ids\" and \"greedy_margin\"",
        path.string());
  }
  const TensorFile file(path.parent_path() / (path.stem().string() + "_logits.safetensors"));
  for (size_t i = 0; i < out.size(); ++i) {
    const TensorInfo& t = file.get(fmt::format("prompt{}.logits", i), DType::f32, 2);
    out[i].logits = {t.shape[0], t.shape[1], file.read<float>(t)};
  }
  return out;
}

}  // namespace

GoldenSizes sizes_of(const std::vector<GoldenSequence>& golden) {
  GoldenSizes sizes;
  sizes.sequences = static_cast<int64_t>(golden.size());
  for (const GoldenSequence& s : golden) {
    sizes.tokens += static_cast<int64_t>(s.ids.size());
    sizes.longest =
        std::max(sizes.longest, static_cast<int64_t>(s.ids.size() + s.greedy_ids.size()));
  }
  return sizes;
}

std::vector<GoldenSequence> load_golden(const fs::path& file) {
  auto sequences = file.extension() == ".json" ? load_json(file) : load_tensors(file);
  for (const GoldenSequence& s : sequences) {
    if (s.logits.rows != static_cast<int64_t>(s.ids.size()) || s.ids.empty() ||
        s.greedy_ids.size() != s.greedy_margin.size()) {
      user_error("{}: {}: logits, ids and margins do not match in length, or are empty",
                 file.string(), s.name);
    }
  }
  return sequences;
}

}  // namespace shunt
