// Copies of rows with pitches on a GPU: what concat, slice and gathers along an inner axis are made
// of.
#pragma once

#include "codegen/kernel.h"

namespace shunt::codegen {

/// `rows` runs of `row` elements, all figures in elements.
struct RowCopy {
  Dim rows, row, from_pitch, to_pitch, from_offset, to_offset;
};

/// Emits the copy; `element` is the bytes of an element.
void emit_copy_rows(const char* name, const Arg& from, const Arg& to, int64_t element,
                    const RowCopy& copy, StepBuilder& steps);

/// Elements of one index of `axis`, and the number of index tuples before it.
Dim inner_elements(const Type& type, int64_t axis);
Dim outer_elements(const Type& type, int64_t axis);

/// The first row of an embedding table that this rank holds.
Arg embedding_begin(const ir::EmbeddingAttrs& attrs, StepBuilder& steps);

}  // namespace shunt::codegen
