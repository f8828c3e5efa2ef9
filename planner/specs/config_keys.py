"""Keys of a model's configuration that say nothing about its dimensions.

The table holds what the public configurations contain about tokenizers, text generation, training
noise, rotary embedding, routing scores, numerics and provenance.
"""

from __future__ import annotations

_GENERATION = """
    bad_words_ids begin_suppress_tokens chunk_size_feed_forward decoder_start_token_id
    diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty
    max_length max_new_tokens min_length no_repeat_ngram_size num_beam_groups num_beams
    num_return_sequences output_attentions output_hidden_states output_router_logits output_scores
    prefix remove_invalid_values repetition_penalty return_dict return_dict_in_generate
    suppress_tokens temperature top_k top_p typical_p use_cache cache_implementation
"""
_TOKENS = """
    tokenizer_class text_start_id text_end_id im_start_id im_end_id im_newline_id video_start_id
    video_end_id mask_init_id pad_id org_vocab_size num_media_embeds ignore_index
    mm_tokens_per_image
"""
_TRAINING = """
    attention_dropout attn_pdrop embd_pdrop emb_pdrop resid_pdrop hidden_dropout hidden_dropout_prob
    attention_probs_dropout_prob dropout activation_dropout layerdrop embedding_dropout
    classifier_dropout summary_type summary_use_proj summary_activation summary_first_dropout
    summary_proj_to_labels initializer_range initializer_factor init_std initializer_cutoff_factor
    pretraining_tp slow_but_exact gradient_checkpointing aux_loss_alpha seq_aux router_aux_loss_coef
    router_z_loss_coef router_jitter_noise input_jitter_noise moe_loss_weight moe_jitter_eps
    rescale_prenorm_residual ep_size
"""
_ROTARY = """
    rope_theta rope_scaling rope_parameters rope_interleave rope_local_base_freq rope_type
    swa_rope_theta compress_rope_theta partial_rotary_factor partial_rotary_factors rotary_dim
    rotary_pct rotary_emb_base use_rotary_pos_emb position_embedding_xdrope xdrope_section
    original_max_position_embeddings initial_context_length indexer_rope_interleave use_mrope
    rope_percent rotary_base mla_use_nope alibi_bias_max attn_scale floor_scale
"""
_ROUTING = """
    topk_method scoring_func norm_topk_prob
    routed_scaling_factor group_limited_greedy moe_renormalize moe_router_activation_func
    moe_router_scaling_factor use_grouped_topk norm_expert_weight moe_normalize_expert_weights
    shared_moe_mode use_mixed_mlp_moe moe_router_dtype moe_router_enable_expert_bias moe_capacity
    moe_gate moe_use_aux_free moe_statics capacity_net_mode swiglu_limit swiglu_alpha
    activation_situ_beta activation_situ_linear_beta norm_topk moe_token_dropping
"""
_NUMERICS = """
    attn_temperature_tuning for_llm_compressor mamba_hidden_act mamba_inner_layernorms
    num_logits_to_keep calc_logits_for_entire_prompt model_max_length
    moe_eval_capacity_factor moe_train_capacity_factor moe_min_capacity
    enable_expert_tensor_parallelism
    torch_dtype dtype expert_dtype mamba_ssm_dtype use_bfloat16 rms_norm_eps layer_norm_eps
    layer_norm_epsilon layernorm_epsilon norm_epsilon norm_eps scale_attn_weights clip_qkv
    scale_attn_by_inverse_layer_idx reorder_and_upcast_attn attention_softmax_in_fp32
    scale_attention_softmax_in_fp32 final_logit_softcapping attn_logit_softcapping
    query_pre_attn_scalar attention_value_scale gate_lower_bound layernorm_full_attention_alpha
    layernorm_full_attention_beta layernorm_linear_attention_alpha layernorm_linear_attention_beta
    layernorm_mlp_alpha layernorm_mlp_beta postnorm norm_type use_gemma_norm hc_eps
    hc_sinkhorn_iters residual_multiplier embedding_multiplier attention_multiplier logits_scaling
    logit_scale normalize_before use_mamba_kernels time_step_min time_step_max time_step_floor
    time_step_limit residual_in_fp32 apply_residual_connection_post_layernorm use_fp32_layernorm
    masked_softmax_fusion bias_dropout_fusion chunk_size mamba_chunk_size prefill_chunk_size
    attention_sink_size attn_implementation flash_attention alibi parallel_attn
    use_parallel_residual do_layer_norm_before enable_bias layer_norm_elementwise_affine
    _remove_final_layer_norm
"""
_OTHER = """
    architectures auto_map transformers_version model_type _name_or_path _attn_implementation
    _commit_hash _provenance _confidence source confidence notes id2label label2id problem_type
    finetuning_task task_specific_params pruned_heads tf_legacy_loss tie_encoder_decoder torchscript
    is_decoder num_labels add_classification_head class_num pool_type vision_config audio_config
    max_window_layers use_unified_vision_chunk anyres_pooling_size anyres_vit_max_image_size
    anyres_vit_two_views
    vit_add_patchemb_bias vit_input_resolution vit_mapping_type vit_norm_type vit_patch vit_path
    vit_remove_prenorm vit_type vit_used_rms_norm quantization_config dense_list
    index_share_for_mtp_iteration qk_head_dim topk_indices hf_repo license
"""
HARMLESS = frozenset(
    " ".join((_GENERATION, _TOKENS, _TRAINING, _ROTARY, _ROUTING, _NUMERICS, _OTHER)).split()
)
_SUFFIXES = ("_token_id", "_token_ids", "_token_index", "_placeholder", "_token")


def is_harmless(key: str) -> bool:
    """Whether a key has no influence on the dimensions.

    >>> is_harmless("rope_theta"), is_harmless("image_token_id"), is_harmless("hidden_size")
    (True, True, False)
    """
    return key in HARMLESS or key.endswith(_SUFFIXES)
