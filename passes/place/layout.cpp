// Arithmetic of layouts. Tested by tests/passes/place/layout_test.cpp.
#include "passes/place/layout.h"

#include <algorithm>

#include "ir/error.h"

namespace shunt::passes {

namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

Layout mapped(const Layout& from, int64_t multiply, int64_t divide) {
  Layout out = from;
  out.total = out.total * multiply / divide;
  for (ir::Runs& runs : out.runs) {
    for (int64_t& i : runs) i = i * multiply / divide;
  }
  return out;
}

/// Appends [begin, end) to runs, as one run with the last where they meet.
void append(ir::Runs& runs, int64_t begin, int64_t end) {
  if (!runs.empty() && runs.back() == begin) {
    runs.back() = end;
  } else if (begin < end) {
    runs.insert(runs.end(), {begin, end});
  }
}

}  // namespace

int64_t Layout::count(size_t position) const {
  int64_t n = 0;
  const ir::Runs& r = runs[position];
  for (size_t i = 0; i < r.size(); i += 2) n += r[i + 1] - r[i];
  return n;
}

int64_t Layout::size() const {
  int64_t most = 1;
  for (size_t i = 0; i < runs.size(); ++i) most = std::max(most, count(i));
  return most;
}

bool Layout::is_whole() const {
  const ir::Runs whole = {0, total};
  return std::all_of(runs.begin(), runs.end(), [&](const ir::Runs& r) { return r == whole; });
}

bool Layout::is_partition() const {
  int64_t at = 0;
  for (const ir::Runs& r : runs) {
    for (size_t i = 0; i < r.size(); i += 2) {
      if (r[i] != at) return false;
      at = r[i + 1];
    }
  }
  return at == total;
}

Layout Layout::times(int64_t n) const { return mapped(*this, n, 1); }

Layout Layout::divided_by(int64_t n) const {
  SHUNT_CHECK(divisible_by(n), "a layout of {} indices in parts that {} does not divide", total, n);
  return mapped(*this, 1, n);
}

bool Layout::divisible_by(int64_t n) const {
  const auto divides = [&](int64_t i) { return i % n == 0; };
  return divides(total) && std::all_of(runs.begin(), runs.end(), [&](const ir::Runs& r) {
           return std::all_of(r.begin(), r.end(), divides);
         });
}

Layout split_even(MeshAxis over, int64_t total, int parts, int64_t unit) {
  const auto largest = [&](int64_t grain) {
    return ceil_div(ceil_div(total, grain), parts) * grain;
  };
  int64_t grain = 128 * unit;
  while (grain > unit && largest(grain) * 50 > largest(unit) * 51) grain /= 2;
  Layout layout{over, total, {}};
  const int64_t units = ceil_div(total, grain);
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t begin = std::min(units * i / parts * grain, total);
    const int64_t end = std::min(units * (i + 1) / parts * grain, total);
    append(layout.runs.emplace_back(), begin, end);
  }
  return layout;
}

HeadSplit split_heads(MeshAxis over, int64_t heads, int64_t kv_heads, int parts) {
  const int64_t group = heads / kv_heads;
  HeadSplit split{{over, heads, {}}, {over, kv_heads, {}}};
  if (kv_heads >= parts) {
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t begin = kv_heads * i / parts, end = kv_heads * (i + 1) / parts;
      append(split.kv.runs.emplace_back(), begin, end);
      append(split.q.runs.emplace_back(), begin * group, end * group);
    }
    return split;
  }
  // Ranks are dealt out to kv heads, then a head's queries to its ranks.
  for (int64_t kv = 0; kv < kv_heads; ++kv) {
    const int64_t ranks = parts * (kv + 1) / kv_heads - parts * kv / kv_heads;
    for (int64_t i = 0; i < ranks; ++i) {
      append(split.kv.runs.emplace_back(), kv, kv + 1);
      append(split.q.runs.emplace_back(), kv * group + group * i / ranks,
             kv * group + group * (i + 1) / ranks);
    }
  }
  return split;
}

Layout expert_layout(const ExpertMapLayer& layer, int ranks) {
  Layout layout{MeshAxis::ep, layer.expert_count(), {}};
  for (int r = 0; r < ranks; ++r) {
    ir::Runs& runs = layout.runs.emplace_back();
    for (const int e : layer.experts_on(r)) append(runs, e, e + 1);
  }
  return layout;
}

std::vector<double> route_table(const ExpertMapLayer& layer, const Layout& experts,
                                int64_t replicas) {
  const auto slot = [&](int expert, int rank) {
    int64_t at = 0;
    const ir::Runs& runs = experts.runs[static_cast<size_t>(rank)];
    for (size_t i = 0; i < runs.size(); i += 2) {
      if (expert < runs[i + 1]) return at + expert - runs[i];
      at += runs[i + 1] - runs[i];
    }
    internal_error(__FILE__, __LINE__, "expert {} is not on rank {}", expert, rank);
  };
  std::vector<double> table;
  for (int e = 0; e < layer.expert_count(); ++e) {
    const auto& list = layer.experts[static_cast<size_t>(e)];
    double upper = 0;
    for (size_t i = 0; i < static_cast<size_t>(replicas); ++i) {
      if (i >= list.size()) {
        table.insert(table.end(), {0, 0, 0});
        continue;
      }
      upper = i + 1 == list.size() ? 1 : upper + list[i].share;
      table.insert(table.end(), {static_cast<double>(list[i].rank),
                                 static_cast<double>(slot(e, list[i].rank)), upper});
    }
  }
  return table;
}

}  // namespace shunt::passes
