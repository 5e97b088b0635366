// Every command line that README.md shows is run as it stands. (Its C++ example:
// tests/runtime/engine/shunt_test.cpp.)
#include <gtest/gtest.h>

#include <sstream>

#include "tests/paths.h"
#include "tests/tools/program.h"

namespace shunt::test {

namespace {

TEST(Readme, CommandsRun) {
  const TempDir folder;  // with what the commands name, as in the repository
  for (const char* name : {"examples", "tests"}) {
    std::filesystem::create_directory_symlink(std::string(source_dir()) + "/" + name,
                                              folder / name);
  }
  std::filesystem::create_directory(folder / "build");
  std::filesystem::create_symlink(program_path(), folder / "build/shunt");
  std::istringstream readme(read_file(std::string(source_dir()) + "/README.md"));
  int commands = 0;
  for (std::string line; std::getline(readme, line);) {
    if (!line.starts_with("    build/shunt ")) continue;
    ++commands;
    const Ran r = shell(line, folder.path());
    EXPECT_EQ(r.code, 0) << line << "\n" << r.out << r.err;
  }
  EXPECT_GE(commands, 5);
}

}  // namespace

}  // namespace shunt::test
