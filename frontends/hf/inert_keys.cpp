// The list of config.json keys that cannot change what a model computes at inference. A key belongs
// here only if no family's forward pass reads it outside of training. Entry point: find_inert_key.
// Tested by tests/frontends/config_test.cpp.
#include "frontends/hf/inert_keys.h"

namespace shunt::hf {

namespace {

constexpr InertKey kInertKeys[] = {
    // Names and bookkeeping.
    {"_name_or_path"},
    {"architectures"},
    {"transformers_version"},
    {"id2label"},
    {"label2id"},
    {"problem_type"},
    {"finetuning_task"},
    {"tokenizer_class"},
    {"task_specific_params"},
    {"_commit_hash"},
    // Code next to the weights: never run.
    {"auto_map", true},
    {"trust_remote_code", true},
    // Initialisation and training.
    {"attention_dropout"},
    {"hidden_dropout"},
    {"attn_pdrop"},
    {"embd_pdrop"},
    {"resid_pdrop"},
    {"resid_dropout"},
    {"embed_dropout"},
    {"classifier_dropout"},
    {"attention_probs_dropout_prob"},
    {"hidden_dropout_prob"},
    {"emb_pdrop"},
    {"dropout"},
    {"activation_dropout"},
    {"layerdrop"},
    {"qa_dropout"},
    {"seq_classif_dropout"},
    {"aux_loss_alpha"},
    {"seq_aux"},
    {"ep_size"},
    {"router_aux_loss_coef"},
    {"router_jitter_noise"},
    {"input_jitter_noise"},
    {"router_z_loss_coef"},
    {"gradient_checkpointing"},
    {"use_bfloat16"},
    // How the reference implementation runs; pretraining_tp splits its matmuls, which adds up to
    // the same.
    {"use_cache"},
    {"output_router_logits"},
    {"output_attentions"},
    {"output_hidden_states"},
    {"return_dict"},
    {"use_return_dict"},
    {"torchscript"},
    {"pretraining_tp"},
    {"chunk_size_feed_forward"},
    {"slow_but_exact"},
    {"reorder_and_upcast_attn"},
    // Heads that sum up a sequence.
    {"summary_type"},
    {"summary_use_proj"},
    {"summary_activation"},
    {"summary_first_dropout"},
    {"summary_proj_to_labels"},
    {"attn_implementation"},
    {"_attn_implementation"},
    {"_attn_implementation_autoset"},
    {"_experts_implementation"},
    // Token ids that only a tokenizer, a trainer or the engine's stop rules use.
    {"pad_token_id"},
    {"sep_token_id"},
    {"cls_token_id"},
    {"mask_token_id"},
    {"unk_token_id"},
    {"eod_token_id"},
    {"decoder_start_token_id"},
    {"image_token_id"},
    {"image_token_index"},
    {"video_token_id"},
    {"vision_start_token_id"},
    {"vision_end_token_id"},
    // Defaults for generation that transformers 4 wrote into config.json; the caller of the engine
    // decides these.
    {"max_length"},
    {"min_length"},
    {"max_new_tokens"},
    {"do_sample"},
    {"early_stopping"},
    {"num_beams"},
    {"num_return_sequences"},
    {"temperature"},
    {"top_k"},
    {"top_p"},
    {"typical_p"},
    {"repetition_penalty"},
    {"length_penalty"},
    // The other half of a multimodal model: text only is run.
    {"vision_config", true},
    {"audio_config", true},
};

}  // namespace

const InertKey* find_inert_key(std::string_view name) {
  for (const InertKey& key : kInertKeys) {
    if (key.name == name) return &key;
  }
  return nullptr;
}

}  // namespace shunt::hf
