// How a checkpoint stores the matrices that its config calls quantised.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace shunt {

struct Quantization {
  enum class Method {
    none,
    fp8,    // NAME f8e4m3 [.., N, K] and NAME_scale_inv, one a group_rows x group_columns block
    mxfp4,  // NAME_blocks u8 [.., N, K/32, 16] and NAME_scales u8 [.., N, K/32]
  };
  Method method = Method::none;
  int64_t group_rows = 1, group_columns = 1;
  std::vector<std::string> left_out;  // modules that stay as they are; see leaves_out()
};

/// The method's name in config.json.
std::string_view method_name(Quantization::Method method);

/// True if `left_out` names the module or one around it: an entry is the beginning or the end of
/// the tensor's path, in whole words between dots, and a word "*" stands for any.
bool leaves_out(const Quantization& quantization, std::string_view tensor);

}  // namespace shunt
