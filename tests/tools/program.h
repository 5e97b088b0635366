// The program as a subprocess, for tests: exit code and both streams; temporary folders; models to
// damage. Every run uses a cache of its own test process and sees no GPU.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace shunt::test {

/// A fresh folder, removed with what is in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

struct Ran {
  int code = -1;  // exit code; 128 + signal if one ended it
  std::string out, err;
};

/// Runs the program with `args`, in `directory` if given.
Ran shunt(const std::vector<std::string>& args, const std::string& directory = "");
/// The same through /bin/sh, where $SHUNT is the program.
Ran shell(const std::string& command, const std::string& directory = "");

std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, std::string_view bytes);
/// Names under a folder, sorted, with their contents: equal folders give equal listings.
std::vector<std::pair<std::string, std::string>> contents(const std::filesystem::path& directory);
/// The number after `before` in `text`.
double number_after(const std::string& text, const std::string& before);

std::string data(const std::string& relative);  // tests/data/...
std::string storyteller();                      // examples/storyteller

/// storyteller compiled for sm_90a, and for cpu, once a test process.
const std::filesystem::path& gpu_plan();
const std::filesystem::path& cpu_plan();

/// A model of tests/data/conformance in `to`.
void copy_model(const std::string& name, const std::filesystem::path& to);

/// A safetensors file taken apart, to be written again with something changed.
struct Safetensors {
  nlohmann::ordered_json header;
  std::string data;
  explicit Safetensors(const std::filesystem::path& path);
  void write(const std::filesystem::path& path) const;
  /// Adds to one element of an f32 tensor.
  void add_to_f32(const std::string& tensor, int64_t element, float value);
};

}  // namespace shunt::test
