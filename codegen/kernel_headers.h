// The device headers (codegen/kernels/**/*.cuh) as text inside the program;
// cmake/embed_kernels.cmake writes the table.
#pragma once

#include <span>

#include "runtime/jit/jit.h"

namespace shunt::codegen {

/// Every header, by the name an #include gives it ("common/types.cuh"); sorted by name.
std::span<const EmbeddedHeader> kernel_headers();

}  // namespace shunt::codegen
