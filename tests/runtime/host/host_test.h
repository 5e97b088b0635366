// What the tests of host kernels share: random data, argument lists, pools.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "ir/types.h"
#include "runtime/host/host.h"

namespace shunt::host_test {

inline std::mt19937& generator() {
  static std::mt19937 g(7);
  return g;
}
inline int64_t pick(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator());
}

inline std::vector<float> random_floats(int64_t n, float scale = 1.0f) {
  std::normal_distribution<float> d(0.0f, scale);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = d(generator());
  return x;
}

/// A weight in some element type, and its exact values. The memory ends where the weight ends (for
/// ASan).
struct TestWeight {
  DType dtype = DType::f32;
  std::vector<float> values;
  std::vector<uint16_t> bits;

  static TestWeight random(int64_t n, DType dtype, float scale = 1.0f) {
    TestWeight w;
    w.dtype = dtype;
    w.values = random_floats(n, scale);
    if (dtype == DType::f32) return w;
    for (float& v : w.values) {
      w.bits.push_back(dtype == DType::bf16 ? bf16_from_f32(v) : f16_from_f32(v));
      v = dtype == DType::bf16 ? f32_from_bf16(w.bits.back()) : f32_from_f16(w.bits.back());
    }
    return w;
  }
  void* data() { return dtype == DType::f32 ? static_cast<void*>(values.data()) : bits.data(); }
  float operator[](int64_t i) const { return values[static_cast<size_t>(i)]; }
};

inline DType pick_dtype() {
  return std::vector{DType::f32, DType::bf16, DType::f16}[static_cast<size_t>(pick(0, 2))];
}

/// An argument list, written in order.
struct Call {
  std::vector<HostSlot> slots;

  Call& p(const void* v) {
    slots.push_back(HostSlot::pointer(const_cast<void*>(v)));
    return *this;
  }
  template <class T>
  Call& p(const std::vector<T>& v) {
    return p(v.data());
  }
  Call& w(TestWeight& v) { return p(v.data()).i(static_cast<int64_t>(v.dtype)); }
  Call& none() { return p(nullptr); }
  Call& no_weight() { return none().i(static_cast<int64_t>(DType::f32)); }
  Call& i(int64_t v) {
    slots.push_back(HostSlot::integer(v));
    return *this;
  }
  Call& f(double v) {
    slots.push_back(HostSlot::real(v));
    return *this;
  }
  Call& e(const HostExpr* v) {
    slots.push_back(HostSlot::expr(v));
    return *this;
  }

  void run(const char* kernel, ThreadPool& pool) const {
    const HostKernel function = find_host_kernel(kernel);
    ASSERT_NE(function, nullptr) << kernel;
    function(slots, pool);
  }
};

/// Results start as NaN, so that an element nobody wrote shows.
inline std::vector<float> poisoned(int64_t n) {
  return std::vector<float>(static_cast<size_t>(n), std::numeric_limits<float>::quiet_NaN());
}

inline ThreadPool& pool() {
  static ThreadPool p(3);
  return p;
}

inline void expect_near(float got, double want, double tolerance, const std::string& where) {
  ASSERT_TRUE(std::fabs(got - want) <= tolerance * std::max(1.0, std::fabs(want)))
      << where << ": got " << got << ", want " << want;
}

/// Paged state of `sequences` sequences with room for `context` tokens each, pages dealt out at
/// random.
struct Paged {
  int64_t page_size, width;  // width: pages a sequence
  std::vector<int32_t> tables;
  int64_t pages;

  Paged(int64_t sequences, int64_t context, int64_t page_size)
      : page_size(page_size),
        width((context + page_size - 1) / page_size),
        pages(sequences * width + 2) {
    std::vector<int32_t> order(static_cast<size_t>(pages));
    for (int64_t i = 0; i < pages; ++i) order[static_cast<size_t>(i)] = static_cast<int32_t>(i);
    std::shuffle(order.begin(), order.end(), generator());
    tables.assign(order.begin(), order.begin() + sequences * width);
  }
  int64_t row(int64_t s, int64_t p) const {
    return tables[static_cast<size_t>(s * width + p / page_size)] * page_size + p % page_size;
  }
  int64_t rows() const { return pages * page_size; }
};

}  // namespace shunt::host_test
