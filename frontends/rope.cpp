// Frequencies of rotary embeddings. Entry points: inverse_frequencies, rope_scale (architecture.h).
// Tested by tests/frontends/rope_test.cpp.
#include <algorithm>
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

/// YaRN: dimensions that turn more than beta_fast times over the original positions stay, those
/// that turn less than beta_slow times are stretched, a linear ramp lies between.
class Yarn {
 public:
  explicit Yarn(const Rope& rope) : factor_(static_cast<float>(rope.factor)) {
    low_ = dimension(rope, rope.beta_fast);
    high_ = dimension(rope, rope.beta_slow);
    if (rope.truncate) {
      low_ = std::floor(low_);
      high_ = std::ceil(high_);
    }
    low_ = std::max(low_, 0.0);
    high_ = std::min(high_, static_cast<double>(rope.rotary_dim - 1));
    if (low_ == high_) high_ += 0.001;
  }

  /// `wave` is theta^(2i / rotary_dim).
  float frequency(int64_t i, float wave) const {
    const float ramp =
        (static_cast<float>(i) - static_cast<float>(low_)) / static_cast<float>(high_ - low_);
    const float keep = 1 - std::clamp(ramp, 0.0f, 1.0f);
    return 1 / (factor_ * wave) * (1 - keep) + 1 / wave * keep;
  }

 private:
  /// The dimension that turns so many times over the original positions.
  static double dimension(const Rope& rope, double turns) {
    const double positions = static_cast<double>(rope.original_positions);
    return static_cast<double>(rope.rotary_dim) *
           std::log(positions / (turns * 2 * std::numbers::pi)) / (2 * std::log(rope.theta));
  }

  float factor_;
  double low_, high_;
};

bool beyond_original(const Rope& rope, int64_t max_model_len) {
  return max_model_len > rope.original_positions;
}

}  // namespace

std::vector<double> inverse_frequencies(const Rope& rope, int64_t max_model_len) {
  std::vector<double> out;
  const auto theta = static_cast<float>(rope.theta);
  const auto& factors =
      beyond_original(rope, max_model_len) ? rope.long_factors : rope.short_factors;
  for (int64_t i = 0; i < rope.rotary_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rope.rotary_dim);
    const float wave = std::pow(theta, exponent);
    float frequency = 1 / wave;
    switch (rope.scaling) {
      case Rope::Scaling::none: break;
      case Rope::Scaling::linear: frequency /= static_cast<float>(rope.factor); break;
      case Rope::Scaling::llama3: frequency = stretch(rope, frequency); break;
      case Rope::Scaling::yarn: frequency = Yarn(rope).frequency(i, wave); break;
      case Rope::Scaling::longrope:
        frequency = 1 / (static_cast<float>(factors[static_cast<size_t>(i)]) * wave);
        break;
    }
    out.push_back(frequency);
  }
  return out;
}

double rope_scale(const Rope& rope, int64_t max_model_len) {
  if (rope.scaling != Rope::Scaling::longrope) return rope.scale;
  return beyond_original(rope, max_model_len) ? rope.long_scale : rope.short_scale;
}

}  // namespace shunt
