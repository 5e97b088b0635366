// One function a family of kernels: its rows of the selection table, best first. all_kernels()
// joins them.
#pragma once

#include <vector>

#include "codegen/kernel.h"

namespace shunt::codegen {

std::vector<KernelImpl> linear_kernels();            // emit/linear.cpp
std::vector<KernelImpl> linear_gemv_kernels();       // emit/linear_gemv.cpp
std::vector<KernelImpl> linear_routed_kernels();     // emit/linear_routed.cpp
std::vector<KernelImpl> linear_grouped_kernels();    // emit/linear_grouped.cpp
std::vector<KernelImpl> norm_kernels();              // emit/norm.cpp
std::vector<KernelImpl> tensor_kernels();            // emit/tensor.cpp
std::vector<KernelImpl> rope_kernels();              // emit/rope.cpp
std::vector<KernelImpl> attention_kernels();         // emit/attention.cpp
std::vector<KernelImpl> attention_latent_kernels();  // emit/attention_latent.cpp
std::vector<KernelImpl> recurrent_kernels();         // emit/recurrent.cpp
std::vector<KernelImpl> gate_kernels();              // emit/gate.cpp
std::vector<KernelImpl> route_kernels();             // emit/route.cpp
std::vector<KernelImpl> collective_kernels();        // emit/collective.cpp
std::vector<KernelImpl> peer_sum_kernels();          // emit/peer_sum.cpp
std::vector<KernelImpl> dispatch_kernels();          // emit/dispatch.cpp
std::vector<KernelImpl> dispatch_peer_kernels();     // emit/dispatch_peer.cpp
std::vector<KernelImpl> dispatch_lines_kernels();    // emit/dispatch_lines.cpp
std::vector<KernelImpl> sample_kernels();            // emit/sample.cpp
std::vector<KernelImpl> cpu_kernels();               // emit/cpu.cpp

}  // namespace shunt::codegen
