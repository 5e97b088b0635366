// What the rows of attention and encoder_attention share. Internal to codegen/emit.
#pragma once

#include "codegen/emit/launch.h"

namespace shunt::codegen {

/// The operands, attributes and sizes of attention or encoder_attention by name.
struct Attention {
  bool encoder;
  const ir::Value *q, *seq_starts, *kv_lens = nullptr, *tables = nullptr, *k, *v, *sinks = nullptr,
                                   *slopes = nullptr, *out;
  ir::AttentionAttrs attrs;
  int64_t heads, kv_heads, dim, dim_v, table_cols = 0;
  Dim tokens, sequences;

  explicit Attention(const ir::Op& op)
      : encoder(op.kind == ir::OpKind::encoder_attention), q(op.operand(0)), out(op.result()) {
    if (encoder) {
      k = op.operand(1);
      v = op.operand(2);
      seq_starts = op.operand(3);
      attrs.scale = op.as<ir::EncoderAttentionAttrs>().scale;
      sequences = seq_starts->type.shape[0] - 1;
    } else {
      seq_starts = op.operand(1);
      kv_lens = op.operand(2);
      tables = op.operand(3);
      k = op.operand(4);
      v = op.operand(5);
      sinks = op.operand(6);
      slopes = op.operand(7);
      attrs = op.as<ir::AttentionAttrs>();
      table_cols = tables->type.shape[1].constant();
      sequences = tables->type.shape[0];
    }
    tokens = q->type.shape[0];
    heads = q->type.shape[1].constant();
    dim = q->type.shape[2].constant();
    kv_heads = k->type.shape[k->type.rank() - 2].constant();
    dim_v = out->type.last().constant() / heads;
  }

  int64_t group() const { return heads / kv_heads; }
  /// Where values are read: without rows of their own they begin those of k.
  const ir::Value* values() const { return v != nullptr ? v : k; }
  int64_t value_stride() const { return v != nullptr ? dim_v : dim; }
  /// q, k and out in one 16-bit type and without slopes.
  bool is_half_typed() const {
    const DType e = q->type.dtype;
    return is_half(e) && k->type.dtype == e && out->type.dtype == e && slopes == nullptr;
  }
  /// Also v, in heads that 16-wide fragments divide.
  bool fits_tensor_cores() const {
    return is_half_typed() && v != nullptr && v->type.dtype == q->type.dtype && dim % 16 == 0 &&
           dim_v % 16 == 0 && dim <= 256 && dim_v <= 256;
  }
};

/// The part of a kernel's Config that kernels/attention_common.cuh and all kernels read.
void add_attention_config(const Attention& a, LaunchBuilder& launch, const Context& context,
                          int64_t threads);

}  // namespace shunt::codegen
