// The helpers of program.h.
#include "tests/paths.h"
#include "tests/tools/program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>

namespace shunt::test {

namespace fs = std::filesystem;

namespace {

const TempDir& process_folder() {
  static const TempDir folder;
  return folder;
}

/// In the child: streams to files, no GPU, the cache of this process.
[[noreturn]] void become(const std::vector<std::string>& args, const std::string& directory,
                         const std::string& out, const std::string& err) {
  const auto redirect = [](const std::string& path, int flags, int to) {
    const int fd = ::open(path.c_str(), flags, 0600);
    if (fd < 0 || ::dup2(fd, to) < 0) ::_exit(126);
  };
  redirect("/dev/null", O_RDONLY, STDIN_FILENO);
  redirect(out, O_WRONLY | O_CREAT | O_TRUNC, STDOUT_FILENO);
  redirect(err, O_WRONLY | O_CREAT | O_TRUNC, STDERR_FILENO);
  ::setenv("SHUNT_CACHE_DIR", (process_folder() / "cache").c_str(), 1);
  ::setenv("CUDA_VISIBLE_DEVICES", "", 1);
  ::setenv("SHUNT", program_path(), 1);
  ::alarm(300);  // ends a program that hangs
  if (!directory.empty() && ::chdir(directory.c_str()) != 0) ::_exit(126);
  std::vector<char*> argv;
  for (const std::string& a : args) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

Ran spawn(const std::vector<std::string>& args, const std::string& directory) {
  const TempDir streams;
  const std::string out = streams / "out", err = streams / "err";
  process_folder();
  const pid_t child = ::fork();
  if (child == 0) become(args, directory, out, err);
  int status = 0;
  ::waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_file(out),
          read_file(err)};
}

fs::path compiled(const std::string& target) {
  const fs::path plan = process_folder() / (target + ".plan");
  const Ran r = shunt({"compile", storyteller(), "-o", plan.string(), "--target", target});
  EXPECT_EQ(r.code, 0) << r.err;
  return plan;
}

}  // namespace

TempDir::TempDir() {
  std::string name = (fs::temp_directory_path() / "shunt_tools_test_XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

Ran shunt(const std::vector<std::string>& args, const std::string& directory) {
  std::vector<std::string> all = {program_path()};
  all.insert(all.end(), args.begin(), args.end());
  return spawn(all, directory);
}

Ran shell(const std::string& command, const std::string& directory) {
  return spawn({"/bin/sh", "-c", command}, directory);
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

void write_file(const fs::path& path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  EXPECT_TRUE(file) << path;
}

std::vector<std::pair<std::string, std::string>> contents(const fs::path& directory) {
  std::vector<std::pair<std::string, std::string>> out;
  if (!fs::exists(directory)) return out;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    const std::string name = fs::relative(entry.path(), directory).string();
    out.emplace_back(name, entry.is_regular_file() ? read_file(entry.path()) : "");
  }
  std::sort(out.begin(), out.end());
  return out;
}

double number_after(const std::string& text, const std::string& before) {
  const size_t at = text.find(before);
  EXPECT_NE(at, std::string::npos) << "no '" << before << "' in\n" << text;
  return at == std::string::npos ? -1 : std::atof(text.c_str() + at + before.size());
}

std::string data(const std::string& relative) {
  return std::string(source_dir()) + "/tests/data/" + relative;
}
std::string storyteller() { return std::string(source_dir()) + "/examples/storyteller"; }

const fs::path& gpu_plan() {
  static const fs::path plan = compiled("sm_90a");
  return plan;
}

const fs::path& cpu_plan() {
  static const fs::path plan = compiled("cpu");
  return plan;
}

void copy_model(const std::string& name, const fs::path& to) {
  fs::create_directories(to);
  for (const char* file : {"config.json", "model.safetensors"}) {
    fs::copy_file(data("conformance/" + name + "/" + file), to / file,
                  fs::copy_options::overwrite_existing);
  }
}

Safetensors::Safetensors(const fs::path& path) {
  const std::string bytes = read_file(path);
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  header = nlohmann::ordered_json::parse(bytes.substr(8, length));
  data = bytes.substr(8 + length);
}

void Safetensors::write(const fs::path& path) const {
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  write_file(path, std::string(reinterpret_cast<const char*>(&length), 8) + text + data);
}

void Safetensors::add_to_f32(const std::string& tensor, int64_t element, float value) {
  char* at = data.data() + header.at(tensor).at("data_offsets").at(0).get<int64_t>() + element * 4;
  float old = 0;
  std::memcpy(&old, at, 4);
  old += value;
  std::memcpy(at, &old, 4);
}

}  // namespace shunt::test
