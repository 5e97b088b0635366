// How the cases write modules: a head with the dims, then parameters and graphs.
#pragma once

#include <fmt/format.h>

#include <string>

#include "tests/kernels/op_cases.h"

namespace shunt::test {

/// The first lines of a module. `body` holds its param, state and graph lines.
inline std::string module_text(const std::string& body, int64_t max_tokens,
                               int64_t page_size = 16) {
  return fmt::format(
      "module @case stage(logical)\npage_size {}\ndim T in [1, {}]\ndim S in [1, 64]\n"
      "dim R in [1, 512]\n{}",
      page_size, max_tokens, body);
}

/// Case names hold no dots or dashes.
inline std::string case_name(std::string text) {
  for (char& c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return text;
}

/// One sequence a run, of these many tokens.
inline std::vector<OpRun> runs_of(std::initializer_list<int64_t> tokens) {
  std::vector<OpRun> runs;
  for (const int64_t t : tokens) runs.push_back({{t}});
  return runs;
}
/// One decode run: `n` sequences of one token.
inline OpRun decode_run(int64_t n) {
  return {std::vector<int64_t>(static_cast<size_t>(n), 1), true, n};
}

}  // namespace shunt::test
