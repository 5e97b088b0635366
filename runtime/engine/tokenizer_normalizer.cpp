// Unicode normal forms, by utf8proc. Entry point: make_normalizer(). Tested by
// tests/runtime/tokenizer_test.cpp against the reference library.
#include <utf8proc.h>

#include <cstdlib>

#include "runtime/checkpoint/strict_json.h"
#include "runtime/engine/tokenizer_parts.h"
#include "runtime/engine/tokenizer_utf8.h"

namespace shunt::tokenizer {

namespace {

class UnicodeForm : public Normalizer {
 public:
  explicit UnicodeForm(int options) : options_(options) {}

  std::string apply(std::string text) const override {
    if (is_ascii(text)) return text;  // every form leaves ASCII alone
    utf8proc_uint8_t* mapped = nullptr;
    const auto size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                   static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                                   static_cast<utf8proc_option_t>(options_));
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(mapped, &std::free);
    if (size < 0)
      user_error("cannot normalize a text of {} bytes: {}", text.size(), utf8proc_errmsg(size));
    return std::string(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
  }

 private:
  int options_;
};

class NormalizerSequence : public Normalizer {
 public:
  explicit NormalizerSequence(std::vector<std::unique_ptr<Normalizer>> parts)
      : parts_(std::move(parts)) {}

  std::string apply(std::string text) const override {
    for (const auto& part : parts_) text = part->apply(std::move(text));
    return text;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

}  // namespace

std::unique_ptr<Normalizer> make_normalizer(const Node& node) {
  if (node.is_null()) return nullptr;
  const std::string kind = node.kind();
  if (kind == "NFC") return std::make_unique<UnicodeForm>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  if (kind == "NFD") return std::make_unique<UnicodeForm>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
  if (kind == "NFKC")
    return std::make_unique<UnicodeForm>(UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
  if (kind == "NFKD")
    return std::make_unique<UnicodeForm>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
  if (kind == "Sequence") {
    std::vector<std::unique_ptr<Normalizer>> parts;
    for (const Node& item : node.get("normalizers").items()) {
      if (auto part = make_normalizer(item)) parts.push_back(std::move(part));
    }
    return std::make_unique<NormalizerSequence>(std::move(parts));
  }
  node.unsupported("normalizer " + quote_name(kind));
}

}  // namespace shunt::tokenizer
