// Where the tests find the checkout and the program. Functions, not macros, so that the paths are
// known to one object file only and a compiler cache serves every checkout.
#pragma once

namespace shunt {

/// The root of the checkout, absolute.
const char* source_dir();
/// The built program `shunt`, absolute.
const char* program_path();

}  // namespace shunt
