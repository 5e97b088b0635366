// rope_parameters, or the older rope_theta and rope_scaling. Entry point: read_rope
// (frontends/hf/common.h). Tested by tests/frontends/rope_test.cpp.
#include <cmath>

#include "frontends/hf/common.h"
#include "ir/error.h"

namespace shunt::hf {

namespace {

constexpr Range kFactor{1e-6, 1e6};

/// 0.1 * m * log(factor) + 1, as YaRN's authors have it.
double magnitude(double factor, double m) {
  return factor <= 1 ? 1 : 0.1 * m * std::log(factor) + 1;
}

/// Reader of one rope description: the object it is in, and keys that may stand beside it.
class RopeReader {
 public:
  RopeReader(const Config& config, const Config& scaling, int64_t max_positions, Rope& rope)
      : config_(config), scaling_(scaling), max_positions_(max_positions), rope_(rope) {}

  void read() {
    const std::string type = scaling_.text_or({"rope_type", "type"}, "default");
    if (type == "default") {
      unused_positions();
    } else if (type == "linear") {
      rope_.scaling = Rope::Scaling::linear;
      rope_.factor = scaling_.number({"factor"}, kFactor);
      unused_positions();
    } else if (type == "dynamic") {
      dynamic();
    } else if (type == "llama3") {
      llama3();
    } else if (type == "yarn") {
      yarn();
    } else if (type == "longrope" || type == "su") {
      longrope();
    } else {
      scaling_.fail(scaling_.has("rope_type") ? "rope_type" : "type",
                    "is none of default, linear, dynamic, llama3, yarn and longrope");
    }
  }

 private:
  /// Some scalings have no use for the number.
  void unused_positions() {
    scaling_.integer_or({"original_max_position_embeddings"}, 0, 1, kMaxPositions);
    config_.integer_or({"original_max_position_embeddings"}, 0, 1, kMaxPositions);
  }

  /// The number beside the object wins, as in the reference.
  void read_original_positions() {
    const int64_t inner =
        scaling_.integer_or({"original_max_position_embeddings"}, max_positions_, 1, kMaxPositions);
    rope_.original_positions =
        config_.integer_or({"original_max_position_embeddings"}, inner, 1, kMaxPositions);
  }

  /// The base grows with sequences longer than max_position_embeddings, and there are none. With
  /// `alpha` it grows by that, whatever the length.
  void dynamic() {
    scaling_.number_or({"factor"}, 1, kFactor);
    for (const char* key : {"beta_fast", "beta_slow", "mscale", "mscale_all_dim"})
      scaling_.number_or({key}, 0, {});
    const double alpha = scaling_.number_or({"alpha"}, 0, {0, 1e9});
    if (alpha > 0) {
      const auto d = static_cast<double>(rope_.rotary_dim);
      rope_.theta *= std::pow(alpha, d / (d - 2));
    }
    unused_positions();
  }

  void llama3() {
    rope_.scaling = Rope::Scaling::llama3;
    rope_.factor = scaling_.number({"factor"}, kFactor);
    rope_.low_freq_factor = scaling_.number({"low_freq_factor"}, kFactor);
    rope_.high_freq_factor = scaling_.number({"high_freq_factor"}, kFactor);
    read_original_positions();
    if (rope_.high_freq_factor <= rope_.low_freq_factor) {
      scaling_.fail("high_freq_factor", "is not larger than low_freq_factor");
    }
  }

  double factor_or_ratio() {
    const double ratio =
        static_cast<double>(max_positions_) / static_cast<double>(rope_.original_positions);
    return scaling_.number_or({"factor"}, ratio, kFactor);
  }

  void yarn() {
    rope_.scaling = Rope::Scaling::yarn;
    read_original_positions();
    rope_.factor = factor_or_ratio();
    const double m = scaling_.number_or({"mscale"}, 0, {0, 1e3});
    const double all = scaling_.number_or({"mscale_all_dim"}, 0, {0, 1e3});
    rope_.mscale_all_dim = all;
    const double derived = m != 0 && all != 0
                               ? magnitude(rope_.factor, m) / magnitude(rope_.factor, all)
                               : magnitude(rope_.factor, 1);
    rope_.scale = scaling_.number_or({"attention_factor"}, derived, {0, 1e3});
    const auto turns = [&](const char* key, double fallback) {
      const double value = scaling_.number_or({key}, fallback, {0, 1e6});
      return value == 0 ? fallback : value;
    };
    rope_.beta_fast = turns("beta_fast", 32);
    rope_.beta_slow = turns("beta_slow", 1);
    rope_.truncate = scaling_.boolean_or({"truncate"}, true);
    if (rope_.theta <= 1) scaling_.fail("rope_theta", "is not above 1, which yarn needs");
  }

  void longrope() {
    rope_.scaling = Rope::Scaling::longrope;
    read_original_positions();
    const double factor = factor_or_ratio();
    const double derived =
        factor <= 1 || rope_.original_positions <= 1
            ? 1
            : std::sqrt(1 +
                        std::log(factor) / std::log(static_cast<double>(rope_.original_positions)));
    const double scale = scaling_.number_or({"attention_factor"}, derived, {0, 1e3});
    // Phi-3.5-MoE names the two scales itself.
    rope_.short_scale = scaling_.number_or({"short_mscale"}, scale, {0, 1e3});
    rope_.long_scale = scaling_.number_or({"long_mscale"}, scale, {0, 1e3});
    rope_.short_factors = factors("short_factor");
    rope_.long_factors = factors("long_factor");
  }

  std::vector<double> factors(const char* key) {
    std::vector<double> list = scaling_.numbers({key});
    if (static_cast<int64_t>(list.size()) != rope_.rotary_dim / 2) {
      scaling_.fail(
          key, fmt::format("has {} numbers for {} frequencies", list.size(), rope_.rotary_dim / 2));
    }
    for (double x : list) {
      if (!(x >= 1e-6 && x <= 1e6)) scaling_.fail(key, "has a number outside 1e-6 ... 1e6");
    }
    return list;
  }

  const Config &config_, &scaling_;
  int64_t max_positions_;
  Rope& rope_;
};

}  // namespace

Rope read_rope(const Config& config, const Architecture& decoder, int64_t head_dim,
               const FamilyDefaults& defaults) {
  constexpr Range kThetaRange{1, 1e15};
  std::optional<Config> scaling = config.object("rope_parameters");
  if (const auto older = config.object("rope_scaling")) {
    if (scaling)
      config.fail("rope_scaling", "stands next to rope_parameters, which replaced it: remove one");
    scaling = older;
  }
  Rope rope;
  // Each may stand inside or outside; both must agree.
  const auto either = [&](Config::Keys outer_keys, const char* key, double fallback, Range range) {
    const double outer = config.number_or(outer_keys, 0, range);
    const double inner = scaling ? scaling->number_or({key}, 0, range) : 0;
    if (outer != 0 && inner != 0 && outer != inner) {
      config.fail(key, fmt::format("{} differs from rope_parameters.{}, {}", outer, key, inner));
    }
    return inner != 0 ? inner : outer != 0 ? outer : fallback;
  };
  rope.theta =
      either({"rope_theta", "rotary_emb_base"}, "rope_theta", defaults.rope_theta, kThetaRange);
  const double given =
      either({"partial_rotary_factor", "rotary_pct"}, "partial_rotary_factor", 0, {0, 1});
  // MiniMax-M2 was published with rotary_dim; transformers 5, which writes rope_parameters, rotates
  // by partial_rotary_factor alone.
  const int64_t rotary = config.integer_or({"rotary_dim"}, 0, 1, kMaxHeadDim);
  const bool by_dim = rotary > 0 && given == 0 && !config.has("rope_parameters");
  const double share = given != 0 ? given : defaults.rotary_share;
  if (!defaults.partial_rotary && (by_dim || share != 1)) {
    config.fail(by_dim ? "rotary_dim" : "partial_rotary_factor",
                "is not supported for this family");
  }
  const char* key = by_dim ? "rotary_dim" : share == 1 ? "head_dim" : "partial_rotary_factor";
  rope.rotary_dim = by_dim ? rotary : static_cast<int64_t>(static_cast<double>(head_dim) * share);
  if (rope.rotary_dim % 2 != 0) {
    config.fail(key, fmt::format("{} is odd: rotary embedding needs pairs", rope.rotary_dim));
  }
  if (rope.rotary_dim < 2 || rope.rotary_dim > head_dim) {
    config.fail(
        key, fmt::format("lets {} of the {} elements of a head rotate", rope.rotary_dim, head_dim));
  }
  if (scaling) {
    RopeReader(config, *scaling, decoder.max_positions, rope).read();
  } else {  // says nothing without a scaling
    config.integer_or({"original_max_position_embeddings"}, 0, 1, kMaxPositions);
  }
  return rope;
}

}  // namespace shunt::hf
