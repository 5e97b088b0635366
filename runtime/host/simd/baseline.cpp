// The vector routines for any machine. See runtime/host/simd.h; tests:
// tests/runtime/host/simd_test.cpp.
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "runtime/host/simd.h"

#define SHUNT_ISA baseline
#define SHUNT_LANES 4
#include "runtime/host/simd/table.h"
