// What the infer_ functions of all families share: a rule macro, the check of operand lists, and
// small type tests. A failed rule throws UserError "rms_norm (C1): weight bf16[7] does not match
// the last dim of bf16[T, 8]".
//
// Rule C0 is the same for all ops and stands here only: the number of operands, none only where the
// signature allows it, parameters and states only in their places, at most one symbolic size in a
// type.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "ir/error.h"
#include "ir/expr.h"
#include "ir/module.h"

namespace shunt::ir {

/// Rule `number` of `op`, which must be in scope. The message's arguments are evaluated only on
/// failure.
#define SHUNT_RULE(number, condition, ...)                                          \
  do {                                                                              \
    if (!(condition)) ::shunt::ir::fail_rule(op, number, fmt::format(__VA_ARGS__)); \
  } while (false)

[[noreturn]] void fail_rule(const Op& op, int number, const std::string& what);

/// Rule C0. One word an operand, e.g. {"x", "weight", "bias?", "extra*"}: "?" may be none, and left
/// out at the end;
/// "*" is any number of operands, last; "@k" a paged state, "@k#" a slot state; "=param" a
/// parameter.
void check_operands(const Op& op, std::initializer_list<std::string_view> signature);

/// Rule `number`: parses `text` and allows only `names`, and x0.. for operands from `first_extra`
/// on, each of which must be used (an operand without effect is a mistake). `what` names the
/// attribute.
Expr check_expr(const Op& op, int number, std::string_view what, const std::string& text,
                std::initializer_list<std::string_view> names, size_t first_extra);

/// Rule `number`: positions are i32[T].
void check_positions(const Op& op, int number, size_t i, const Dim& tokens);

/// The type of operand `i`, which rule C0 has found present.
inline const Type& type_of(const Op& op, size_t i) { return op.operands[i]->type; }
inline bool has(const Op& op, size_t i) { return op.operand(i) != nullptr; }

/// Float types that ops compute on. f8e4m3 is storage: it means nothing without scales.
inline bool is_real(DType d) { return d == DType::f32 || d == DType::f16 || d == DType::bf16; }
inline bool is_real(const Type& t, int rank) { return is_real(t.dtype) && t.rank() == rank; }
inline bool is_i32(const Type& t, int rank) { return t.dtype == DType::i32 && t.rank() == rank; }
inline bool is_f32(const Type& t, int rank) { return t.dtype == DType::f32 && t.rank() == rank; }
/// A real vector of `n` elements.
inline bool is_vector(const Type& t, const Dim& n) { return is_real(t, 1) && t.shape[0] == n; }
/// True if at most one size is symbolic, so that elements() is defined.
bool has_elements(const Type& t);

inline std::string str(const Type& t) { return t.to_string(); }
inline std::string str(const Dim& d) { return d.to_string(); }

/// Bytes of all operands that are values or parameters, and of all results, each once.
Dim io_bytes(const Op& op);
/// Bytes of operand `i`, 0 if absent.
Dim operand_bytes(const Op& op, size_t i);

}  // namespace shunt::ir
