// Every folder of tests/data/conformance with one thing wrong: a key that nobody knows, each kind
// of tensor missing or of another shape, and tensors that nothing asks for. Each is an error that
// names the culprit.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/frontends/model_dir.h"

namespace shunt {
namespace {

using Tensors = std::map<std::string, FakeTensor>;

class Refusals : public testing::TestWithParam<std::string> {
 protected:
  std::string config() const { return test_data("conformance/" + GetParam() + "/config.json"); }

  std::string error(const std::string& config, const Tensors& tensors,
                    const FrontendOptions& options = {}) const {
    const ModelDir dir(config);
    dir.write_tensors(tensors);
    return user_error_of([&] { dir.import(options); });
  }

  /// One name of each kind: names that differ in their numbers are one, of which the last counts.
  static std::vector<std::string> kinds(const Tensors& tensors) {
    std::map<std::string, std::string> last;
    for (const auto& [name, tensor] : tensors) {
      std::string kind = name;
      std::erase_if(kind, [](char c) { return c >= '0' && c <= '9'; });
      last[kind] = name;
    }
    std::vector<std::string> names;
    for (const auto& [kind, name] : last) names.push_back(name);
    return names;
  }

  static void expect_names(const std::string& error, const std::string& what) {
    EXPECT_NE(error.find("'" + what + "'"), std::string::npos) << what << ": " << error;
  }
};

TEST_P(Refusals, nothing_of_what_is_right) {
  EXPECT_EQ(error(config(), tensors_of(GetParam())), "");
}

TEST_P(Refusals, an_unknown_key_that_may_change_the_result) {
  for (const char* value : {"2.5", "true", "0", "\"linear\"", R"({"a": 1})", "[1]"}) {
    const std::string message =
        error(edited(config(), {{"residual_wobble", value}}), tensors_of(GetParam()));
    EXPECT_NE(message.find("key 'residual_wobble' is not understood by family"), std::string::npos)
        << value << ": " << message;
  }
}

TEST_P(Refusals, a_missing_tensor) {
  const Tensors tensors = tensors_of(GetParam());
  for (const std::string& name : kinds(tensors)) {
    Tensors fewer = tensors;
    fewer.erase(name);
    const std::string message = error(config(), fewer);
    EXPECT_NE(message.find("is missing"), std::string::npos) << name << ": " << message;
    // Without a router or the table of embeddings, the names in use are not known, and the usual
    // ones are asked for.
    if (message.find("'" + name + "'") == message.npos) {
      EXPECT_TRUE(name.find("gate") != name.npos || name.find("router") != name.npos ||
                  name.find("expert") != name.npos || name.find("moe") != name.npos)
          << name << ": " << message;
    }
  }
}

TEST_P(Refusals, a_wrong_shape) {
  const Tensors tensors = tensors_of(GetParam());
  for (const std::string& name : kinds(tensors)) {
    Tensors other = tensors;
    other[name].shape.back() += 1;
    const std::string message = error(config(), other);
    EXPECT_NE(message.find("has shape"), std::string::npos) << name << ": " << message;
    expect_names(message, name);
  }
}

TEST_P(Refusals, a_tensor_that_nothing_asks_for) {
  const Tensors tensors = tensors_of(GetParam());
  // Beside one of every module inside a layer.
  std::string some_layer_tensor;
  for (const auto& [name, tensor] : tensors) {
    const auto digit = std::ranges::find_if(name, [](char c) { return c >= '0' && c <= '9'; });
    if (digit != name.end()) some_layer_tensor = name;
  }
  ASSERT_FALSE(some_layer_tensor.empty());
  const std::string module = some_layer_tensor.substr(0, some_layer_tensor.rfind('.'));
  for (const std::string& name : {module + ".wobble", module + ".wobble.weight"}) {
    Tensors more = tensors;
    more[name] = {DType::bf16, {4}};
    const std::string message = error(config(), more);
    EXPECT_NE(message.find("is not used by family"), std::string::npos) << message;
    expect_names(message, name);
    FrontendOptions allowed;
    allowed.allow_unused_tensors = true;
    EXPECT_EQ(error(config(), more, allowed), "");
  }
}

INSTANTIATE_TEST_SUITE_P(Folders, Refusals,
                         testing::ValuesIn(folders_with("conformance", "config.json")),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace shunt
