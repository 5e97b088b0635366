// Frequencies of rotary embeddings. Entry point: inverse_frequencies (architecture.h). Tested by
// tests/frontends/rope_test.cpp.
#include <cmath>
#include <numbers>

#include "frontends/architecture.h"

namespace shunt {

namespace {

/// Llama 3: long waves are stretched by `factor`, short ones stay, those between are blended.
float stretch(const Rope& rope, float frequency) {
  const auto factor = static_cast<float>(rope.factor);
  const auto positions = static_cast<float>(rope.original_positions);
  const auto low = static_cast<float>(rope.low_freq_factor);
  const auto high = static_cast<float>(rope.high_freq_factor);
  const float wave = 2 * std::numbers::pi_v<float> / frequency;
  if (wave > positions / low) return frequency / factor;
  if (wave < positions / high) return frequency;
  const float blend = (positions / wave - low) / (high - low);
  return (1 - blend) * frequency / factor + blend * frequency;
}

}  // namespace

std::vector<double> inverse_frequencies(const Rope& rope) {
  std::vector<double> out;
  const auto theta = static_cast<float>(rope.theta);
  for (int64_t i = 0; i < rope.rotary_dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(rope.rotary_dim);
    float frequency = 1 / std::pow(theta, exponent);
    if (rope.scaling == Rope::Scaling::linear) frequency /= static_cast<float>(rope.factor);
    if (rope.scaling == Rope::Scaling::llama3) frequency = stretch(rope, frequency);
    out.push_back(frequency);
  }
  return out;
}

}  // namespace shunt
