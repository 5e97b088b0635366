// docs/cli.md is generated from tests/data/cli.md.in and from what each command's -h prints.
// SHUNT_UPDATE=1 writes it anew.
#include <gtest/gtest.h>

#include <regex>

#include "tests/mir_cases.h"
#include "tests/paths.h"
#include "tests/tools/program.h"

namespace shunt::test {

namespace {

/// Names that `shunt -h` lists as subcommands.
std::vector<std::string> commands() {
  const std::string help = shunt({"-h"}).out;
  static const std::regex name("\n  ([a-z]+)  ");
  const std::string list = help.substr(help.find("\nSubcommands:"));
  std::vector<std::string> names;
  for (std::sregex_iterator it(list.begin(), list.end(), name), end; it != end; ++it)
    names.push_back((*it)[1]);
  return names;
}

/// What `shunt COMMAND -h` prints, under a title.
std::string section(const std::string& command) {
  std::string help = shunt({command, "-h"}).out;
  const std::string program = program_path();
  for (size_t at; (at = help.find(program)) != std::string::npos;)
    help.replace(at, program.size(), "shunt");
  help.erase(help.find_last_not_of('\n') + 1);
  return "## shunt " + command + "\n\n```\n" + help + "\n```\n";
}

TEST(CliDocument, IsUpToDate) {
  const std::string root = source_dir();
  std::string expected = read_file(root + "/tests/data/cli.md.in");
  std::string sections;
  for (const std::string& command : commands())
    sections += (sections.empty() ? "" : "\n") + section(command);
  const std::string place = "{commands}\n";
  ASSERT_NE(expected.find(place), std::string::npos);
  expected.replace(expected.find(place), place.size(), sections);
  const std::string path = root + "/docs/cli.md";
  if (update_expectations()) return write_file(path, expected);
  EXPECT_EQ(read_file(path), expected)
      << "docs/cli.md is stale: run this test with SHUNT_UPDATE=1, or edit tests/data/cli.md.in";
}

TEST(CliDocument, NamesEveryCommandAndExitCode) {
  const std::string text = read_file(std::string(source_dir()) + "/docs/cli.md");
  const std::string line = text.substr(0, text.find("| exit code"));
  ASSERT_GE(commands().size(), 6u);
  for (const std::string& command : commands())
    EXPECT_NE(line.find(" " + command), std::string::npos) << command;
  for (const char* code : {"0", "1", "2", "3", "4", "70", "130"})
    EXPECT_NE(text.find("\n| " + std::string(code) + " | "), std::string::npos) << code;
}

/// An unknown flag is one line that names it and where the right ones are listed.
TEST(CliDocument, UnknownFlagsGiveOneLine) {
  for (const std::string& command : commands()) {
    const Ran r = shunt({command, "--no-such-flag"});
    EXPECT_EQ(r.code, 2) << command;
    EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
    EXPECT_NE(r.err.find("shunt " + command + " -h"), std::string::npos) << r.err;
    EXPECT_NE(r.err.find("--no-such-flag"), std::string::npos) << r.err;
  }
}

}  // namespace

}  // namespace shunt::test
