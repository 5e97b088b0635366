// docs/models.md is generated: the table of families from the registry, from the comment that opens
// each family's file, and from what the family reads of its config in tests/data/conformance.
// SHUNT_UPDATE=1 writes it anew.
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "frontends/hf/registry.h"
#include "runtime/checkpoint/strict_json.h"
#include "tests/mir_cases.h"
#include "tests/paths.h"

namespace shunt {
namespace {

namespace fs = std::filesystem;
const fs::path kRoot = source_dir();

/// The comment that opens the family's file, on one line.
std::string summary(const std::string& family) {
  std::istringstream file(
      read_text_file(kRoot / "frontends/hf/families" / (family + ".cpp"), 1 << 20));
  std::string text;
  for (std::string line; std::getline(file, line) && line.starts_with("// ");) {
    text += (text.empty() ? "" : " ") + line.substr(3);
  }
  return text;
}

/// What the family makes of a folder of the conformance kit; nullopt if there is none for it.
std::optional<Architecture> example(const hf::Family& family) {
  for (const auto& folder : fs::directory_iterator(kRoot / "tests/data/conformance")) {
    if (!fs::exists(folder.path() / "config.json")) continue;
    const hf::Config config = hf::Config::read(folder.path() / "config.json");
    if (config.text({"model_type"}) == family.model_type) return family.read(config);
  }
  return std::nullopt;
}

std::string layout_text(const MoeNames& names) {
  if (names.up.find('*') != std::string::npos) return "a tensor an expert";
  switch (names.layout) {
    case MoeNames::Layout::rows: return "fused [E, 2I, H]";
    case MoeNames::Layout::columns: return "fused [E, H, 2I]";
    case MoeNames::Layout::interleaved: return "fused, gate and up columns in turn";
    case MoeNames::Layout::interleaved_rows: return "mxfp4 blocks, gate and up rows in turn";
    case MoeNames::Layout::flat: return "flat [E * I, H]";
  }
  return "";
}

std::string kind_text(const Architecture& a) {
  bool moe = false, latent = false, recurrent = false, window = false;
  for (const Layer& layer : a.layers) {
    moe = moe || std::holds_alternative<MoeMlp>(layer.mlp);
    recurrent = recurrent || layer.recurrent.index() != 0;
    latent = latent || layer.attention.latent.has_value();
    window = window || layer.attention.window > 0 || layer.attention.chunk > 0;
  }
  std::string text = !a.causal ? "encoder" : moe ? "MoE decoder" : "dense decoder";
  if (recurrent) text += ", recurrent layers";
  if (latent) text += ", latent attention";
  if (window) text += ", windows";
  return text;
}

std::string table() {
  std::string out = "| `model_type` | kind | expert tensors | what |\n| --- | --- | --- | --- |\n";
  for (const hf::Family& family : hf::all_families()) {
    std::string kind, experts;
    if (const auto a = example(family)) {
      kind = kind_text(*a);
      std::vector<std::string> layouts;
      for (const MoeNames& names : a->names.moe) {
        const std::string text = layout_text(names);
        if (std::ranges::find(layouts, text) == layouts.end()) layouts.push_back(text);
      }
      experts = fmt::format("{}", fmt::join(layouts, "; "));
    }
    out += fmt::format("| `{}` | {} | {} | {} |\n", family.model_type, kind, experts,
                       summary(std::string(family.model_type)));
  }
  return out;
}

std::string limits() {
  return fmt::format(
      "| | at most |\n| --- | --- |\n| layers | {} |\n| hidden size | {} |\n| width of an MLP or "
      "expert | {} |\n| heads; elements of a head | {}; {} |\n| experts of a layer | {} |\n"
      "| vocabulary | {} |\n| positions | {} |\n",
      hf::kMaxLayers, hf::kMaxHidden, hf::kMaxWidth, hf::kMaxHeads, hf::kMaxHeadDim,
      hf::kMaxExperts, hf::kMaxVocab, hf::kMaxPositions);
}

/// The template with {table} and {limits} filled in.
std::string document() {
  std::string text = read_text_file(kRoot / "tests/data/models.md.in", 1 << 20);
  const std::pair<const char*, std::string> parts[] = {{"{table}\n", table()},
                                                       {"{limits}\n", limits()}};
  for (const auto& [name, part] : parts) {
    const size_t at = text.find(name);
    if (at == std::string::npos) throw std::runtime_error("no place for " + std::string(name));
    text.replace(at, std::string(name).size(), part);
  }
  return text;
}

TEST(ModelsDocument, IsUpToDate) {
  const fs::path path = kRoot / "docs/models.md";
  const std::string expected = document();
  const std::string found = fs::exists(path) ? read_text_file(path, 1 << 20) : "";
  if (found != expected && update_expectations()) {
    std::ofstream(path) << expected;
    return;
  }
  EXPECT_EQ(found, expected) << "docs/models.md is stale: run this test with SHUNT_UPDATE=1";
}

TEST(ModelsDocument, EveryFamilySaysWhatItIs) {
  for (const hf::Family& family : hf::all_families()) {
    EXPECT_GT(summary(std::string(family.model_type)).size(), 20u)
        << family.model_type << ": its file must open with a comment";
  }
}

}  // namespace
}  // namespace shunt
