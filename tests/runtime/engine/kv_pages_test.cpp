// The page allocator: no page is in two lists, none is lost, and a request for too many changes
// nothing.
#include "runtime/engine/kv_pages.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace shunt {
namespace {

TEST(KvPages, GrowsByWholePages) {
  KvPages pages(4, 16);
  KvPages::List list;
  EXPECT_TRUE(pages.grow(list, 0));
  EXPECT_TRUE(list.empty());
  EXPECT_TRUE(pages.grow(list, 1));
  EXPECT_EQ(list.size(), 1u);
  EXPECT_TRUE(pages.grow(list, 16));
  EXPECT_EQ(list.size(), 1u);
  EXPECT_TRUE(pages.grow(list, 17));
  EXPECT_EQ(list, (KvPages::List{0, 1}));
  EXPECT_TRUE(pages.grow(list, 3));  // never shrinks
  EXPECT_EQ(list.size(), 2u);
  EXPECT_EQ(pages.available(), 2);
}

TEST(KvPages, AllOrNothing) {
  KvPages pages(3, 4);
  KvPages::List a, b;
  EXPECT_TRUE(pages.grow(a, 8));
  EXPECT_FALSE(pages.grow(b, 5));
  EXPECT_TRUE(b.empty());
  EXPECT_EQ(pages.available(), 1);
  pages.release(a);
  EXPECT_TRUE(a.empty());
  EXPECT_TRUE(pages.grow(b, 12));
  EXPECT_EQ(pages.available(), 0);
}

TEST(KvPages, NoPageTwice) {
  KvPages pages(50, 8);
  std::vector<KvPages::List> lists(7);
  std::vector<int64_t> rows(lists.size(), 0);
  std::mt19937 random(1);
  for (int i = 0; i < 5000; ++i) {
    const size_t which = random() % lists.size();
    if (random() % 8 == 0) {
      pages.release(lists[which]);
      rows[which] = 0;
    } else if (pages.grow(lists[which], rows[which] + static_cast<int64_t>(random() % 20))) {
      rows[which] = static_cast<int64_t>(lists[which].size()) * 8;
    }
    std::set<int32_t> seen;
    for (const auto& list : lists) {
      for (const int32_t page : list) {
        ASSERT_TRUE(page >= 0 && page < 50);
        ASSERT_TRUE(seen.insert(page).second) << page;
      }
    }
    ASSERT_EQ(static_cast<int64_t>(seen.size()) + pages.available(), 50);
  }
}

}  // namespace
}  // namespace shunt
