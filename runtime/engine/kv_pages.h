// Which pages of state belong to which sequence. Pages are numbered [0, total); a sequence's rows p
// lie in its page p / page_size, so its list of pages is its block table.
#pragma once

#include <cstdint>
#include <vector>

namespace shunt {

class KvPages {
 public:
  KvPages(int64_t pages, int64_t page_size);

  /// The pages of one sequence, in order.
  using List = std::vector<int32_t>;

  /// Makes `list` long enough for `tokens` rows. Takes all it needs or, if there are too few, none
  /// and returns false.
  bool grow(List& list, int64_t tokens);
  /// Gives all pages back and empties the list.
  void release(List& list);

  int64_t total() const { return total_; }
  int64_t available() const { return static_cast<int64_t>(free_.size()); }
  int64_t page_size() const { return page_size_; }
  int64_t pages_for(int64_t tokens) const { return (tokens + page_size_ - 1) / page_size_; }

 private:
  int64_t total_, page_size_;
  std::vector<int32_t> free_;  // last in, first out: pages in recent use are reused
};

}  // namespace shunt
