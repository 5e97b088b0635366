// One function a family of kernels: its rows of the selection table, best first. all_kernels() joins them.
#pragma once

#include <vector>

#include "codegen/kernel.h"

namespace shunt::codegen {

std::vector<KernelImpl> linear_kernels();          // emit/linear.cpp
std::vector<KernelImpl> linear_gemv_kernels();     // emit/linear_gemv.cpp
std::vector<KernelImpl> linear_grouped_kernels();  // emit/linear_grouped.cpp

}  // namespace shunt::codegen
