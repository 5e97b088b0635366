// Counts of routes and experts under uniform routing. Tested by tests/ir/expert_load_test.cpp.
#include "ir/expert_load.h"

#include <algorithm>
#include <cmath>

#include "ir/error.h"

namespace shunt::ir {

namespace {

/// log(n!). std::lgamma would also set a global variable, which threads share.
double log_factorial(double n) {
  int sign = 0;
  return ::lgamma_r(n + 1, &sign);
}

/// The chance that `count` of `tokens` tokens choose an expert which each takes with chance p.
double binomial(int64_t tokens, int64_t count, double p) {
  if (p >= 1) return count == tokens ? 1 : 0;
  const double n = static_cast<double>(tokens), c = static_cast<double>(count);
  const double ways = log_factorial(n) - log_factorial(c) - log_factorial(n - c);
  return std::exp(ways + c * std::log(p) + (n - c) * std::log1p(-p));
}

double share(const ExpertLoad& load) {
  return std::min(1.0, static_cast<double>(load.choices) / static_cast<double>(load.experts));
}

}  // namespace

double ExpertLoad::local_routes(int64_t tokens) const {
  return static_cast<double>(tokens) * static_cast<double>(local) * share(*this);
}

double ExpertLoad::chosen(int64_t tokens) const {
  return static_cast<double>(local) * (1 - std::pow(1 - share(*this), tokens));
}

double ExpertLoad::groups(int64_t tokens, int64_t rows) const {
  if (rows == 1) return local_routes(tokens);
  double of_one = 0;
  for (int64_t count = 1; count <= tokens; ++count) {
    of_one +=
        static_cast<double>((count + rows - 1) / rows) * binomial(tokens, count, share(*this));
  }
  return static_cast<double>(local) * of_one;
}

const Value* route_ids(const Op& op) {
  const Value* ids = op.operand(2);
  if (op.kind != OpKind::grouped_linear) return ids;
  return ids->def != nullptr && ids->def->kind == OpKind::route_sort ? ids->def->operand(0)
                                                                     : nullptr;
}

ExpertLoad expert_load(const Op& op) {
  SHUNT_CHECK(op.kind == OpKind::routed_linear || op.kind == OpKind::grouped_linear,
              "{} has no experts", op.info().name);
  ExpertLoad load;
  load.local = load.experts = op.operand(1)->type.shape[0].constant();
  const Value* ids = route_ids(op);
  if (ids == nullptr) return load;
  load.choices = ids->type.last().constant();
  if (ids->def == nullptr) return load;
  if (const auto* a = std::get_if<LocalRoutesAttrs>(&ids->def->attrs)) load.experts = a->experts;
  if (const auto* a = std::get_if<DispatchAttrs>(&ids->def->attrs)) load.experts = a->experts;
  return load;
}

}  // namespace shunt::ir
