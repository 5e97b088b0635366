// Page bookkeeping. Tested by tests/runtime/engine/kv_pages_test.cpp.
#include "runtime/engine/kv_pages.h"

#include "ir/error.h"

namespace shunt {

KvPages::KvPages(int64_t pages, int64_t page_size) : total_(pages), page_size_(page_size) {
  SHUNT_CHECK(pages > 0 && page_size > 0, "{} pages of {} rows", pages, page_size);
  free_.reserve(static_cast<size_t>(pages));
  for (int64_t i = pages; i-- > 0;)
    free_.push_back(static_cast<int32_t>(i));  // page 0 is taken first
}

bool KvPages::grow(List& list, int64_t tokens) {
  const int64_t more = pages_for(tokens) - static_cast<int64_t>(list.size());
  if (more > available()) return false;
  for (int64_t i = 0; i < more; ++i) {
    list.push_back(free_.back());
    free_.pop_back();
  }
  return true;
}

void KvPages::release(List& list) {
  while (!list.empty()) {
    free_.push_back(list.back());
    list.pop_back();
  }
  SHUNT_CHECK(available() <= total_, "more pages given back than there are");
}

}  // namespace shunt
