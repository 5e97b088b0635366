// Everything most kernels need.
#pragma once

#include "common/math.cuh"
#include "common/reduce.cuh"
#include "common/types.cuh"
#include "common/vec.cuh"
#include "ptx/dependent.cuh"
