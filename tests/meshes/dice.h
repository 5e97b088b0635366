// Random choices from a seed, the same with every C++ library.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "ir/random.h"

namespace shunt {

class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(splitmix64(seed)) {}

  uint64_t bits() { return state_ = splitmix64(state_); }
  /// In [first, last].
  int64_t number(int64_t first, int64_t last) {
    return first + static_cast<int64_t>(bits() % static_cast<uint64_t>(last - first + 1));
  }
  bool coin() { return one_in(2); }
  bool one_in(int64_t n) { return number(1, n) == 1; }
  template <class T>
  T one_of(const std::vector<T>& list) {
    return list[static_cast<size_t>(number(0, static_cast<int64_t>(list.size()) - 1))];
  }
  template <class T>
  T one_of(std::initializer_list<T> list) {
    return one_of(std::vector<T>(list));
  }
  /// `count` different numbers below `end`.
  std::vector<int32_t> different(int64_t count, int64_t end) {
    std::vector<int32_t> all;
    for (int64_t i = 0; i < end; ++i) all.push_back(static_cast<int32_t>(i));
    for (int64_t i = 0; i < count; ++i)
      std::swap(all[static_cast<size_t>(i)], all[static_cast<size_t>(number(i, end - 1))]);
    all.resize(static_cast<size_t>(count));
    return all;
  }
  /// About normal, with mean 0 and standard deviation 1: a sum of 12 uniform numbers.
  float normal() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += static_cast<double>(bits() >> 40) * 0x1p-24;
    return static_cast<float>(sum);
  }

 private:
  uint64_t state_;
};

}  // namespace shunt
