// Reads and rewrites golden-text cases; entry point read_mir_cases. Used by tests/ir/mir_test.cpp
// and the tests of the passes.
#include "tests/mir_cases.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string_view>

#include "ir/error.h"

namespace shunt {

namespace {

constexpr std::string_view kSplit = "// -----";

std::vector<std::string> read_lines(const std::string& path) {
  std::ifstream in(path);
  if (!in) user_error("{}: cannot be read", path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// The rest of `line` after "// WORD", trimmed; nullopt if it is not that directive.
std::optional<std::string> directive(const std::string& line, std::string_view word) {
  const std::string prefix = "// " + std::string(word);
  if (line.compare(0, prefix.size(), prefix) != 0) return std::nullopt;
  if (line.size() > prefix.size() && line[prefix.size()] != ' ') return std::nullopt;
  size_t begin = prefix.size(), end = line.size();
  while (begin < end && std::isspace(static_cast<unsigned char>(line[begin]))) ++begin;
  while (end > begin && std::isspace(static_cast<unsigned char>(line[end - 1]))) --end;
  return line.substr(begin, end - begin);
}

/// Drops blank lines at the end, leaving one newline (or nothing).
std::string trim_end(std::string text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  return text.empty() ? text : text + '\n';
}

class FileReader {
 public:
  explicit FileReader(const std::string& path) : path_(path) {}

  std::vector<MirCase> read() {
    const std::vector<std::string> lines = read_lines(path_);
    for (size_t i = 0; i < lines.size(); ++i) take(lines[i], static_cast<int>(i) + 1);
    finish(static_cast<int>(lines.size()));
    return std::move(cases_);
  }

 private:
  void take(const std::string& line, int number) {
    if (line.rfind(kSplit, 0) == 0) return finish(number);
    if (in_expect_) {
      *current_.expect += line + '\n';
      return;
    }
    if (auto name = directive(line, "CASE")) {
      if (!current_.name.empty()) fail(number, "a second CASE before // -----");
      current_.name = *name;
    } else if (auto pass = directive(line, "PASS")) {
      current_.pass = *pass;
    } else if (auto mesh = directive(line, "MESH")) {
      current_.mesh = ir::parse("module @m stage(logical)\nmesh " + *mesh)->mesh;
    } else if (auto comm = directive(line, "MOE_COMM")) {
      if (*comm != "alltoall") fail(number, "MOE_COMM takes alltoall");
      current_.alltoall = true;
    } else if (auto error = directive(line, "ERROR")) {
      if (error->empty()) fail(number, "ERROR needs a text");
      current_.error = *error;
    } else if (auto expect = directive(line, "EXPECT")) {
      take_expect(*expect, number);
    } else if (!current_.name.empty()) {
      if (current_.line == 0) current_.line = number;
      current_.input += line + '\n';
    } else if (line.rfind("//", 0) != 0 && !line.empty()) {
      fail(number, "text before // CASE");
    }
  }

  void take_expect(const std::string& rest, int number) {
    if (rest == "unchanged") {
      current_.unchanged = true;
    } else if (rest.empty()) {
      current_.expect.emplace();
      in_expect_ = true;
    } else {
      fail(number, "EXPECT takes nothing or 'unchanged'");
    }
  }

  void finish(int number) {
    in_expect_ = false;
    MirCase done = std::move(current_);
    current_ = MirCase{};
    current_.file = path_;
    done.file = path_;
    if (done.name.empty()) {
      if (!trim_end(done.input).empty()) fail(number, "a case without // CASE");
      return;
    }
    if (!names_.insert(done.name).second) fail(number, "two cases named " + done.name);
    done.input = trim_end(done.input);
    if (done.input.empty()) fail(number, "case " + done.name + " has no module");
    if (done.expect) done.expect = trim_end(*done.expect);
    cases_.push_back(std::move(done));
  }

  [[noreturn]] void fail(int number, const std::string& what) const {
    user_error("{}:{}: {}", path_, number, what);
  }

  std::string path_;
  std::vector<MirCase> cases_;
  std::set<std::string> names_;
  MirCase current_;
  bool in_expect_ = false;
};

}  // namespace

std::vector<MirCase> read_mir_cases(const std::string& dir) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    if (entry.path().extension() == ".mir") files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  std::vector<MirCase> all;
  for (const std::string& file : files) {
    auto cases = FileReader(file).read();
    std::move(cases.begin(), cases.end(), std::back_inserter(all));
  }
  return all;
}

bool update_expectations() {
  const char* value = std::getenv("SHUNT_UPDATE");
  return value != nullptr && std::string_view(value) == "1";
}

void rewrite_expectation(const MirCase& mir_case, const std::string& text) {
  std::ostringstream out;
  bool inside = false, skipping = false;
  const auto add = [&]() {
    if (!inside) return;
    const std::string body = trim_end(text);
    out << "// EXPECT" << (body == trim_end(mir_case.input) ? " unchanged\n" : "\n" + body);
  };
  for (const std::string& line : read_lines(mir_case.file)) {
    if (auto name = directive(line, "CASE"); name && *name == mir_case.name) inside = true;
    if (line.rfind(kSplit, 0) == 0) {
      add();
      inside = skipping = false;
    } else if (inside && directive(line, "EXPECT")) {
      skipping = *directive(line, "EXPECT") != "unchanged";
      continue;
    }
    if (!skipping) out << line << '\n';
  }
  add();
  std::ofstream(mir_case.file) << out.str();
}

std::string mir_case_test_name(const testing::TestParamInfo<MirCase>& info) {
  std::string name = std::filesystem::path(info.param.file).stem().string() + "_" + info.param.name;
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

}  // namespace shunt
