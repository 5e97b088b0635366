#include "tests/paths.h"

namespace shunt {

const char* source_dir() { return SHUNT_SOURCE_DIR; }
const char* program_path() { return SHUNT_PROGRAM; }

}  // namespace shunt
