"""Tiny random causal language models of the families that the features must work on.

A model is built from its model type alone: of the sizes below it takes those that its configuration
has a field for. What else a family needs stands in `PARTICULARS`.
"""

from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 61

# Model types whose features are compared with looped autograd, each located automatically.
FAMILIES = """
afmoe apertus arcee aria_text axk1 axk2 bamba bart beam bert bert-generation big_bird
bigbird_pegasus biogpt bitnet blenderbot blenderbot-small bloom camembert codegen cohere cohere2
cohere2_moe ctrl cwm data2vec-text deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 diffllama doge
dots1 electra ernie ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon falcon_h1 falcon_mamba flex_olmo
flint gemma gemma2 gemma3_text gemma3n_text gemma4_text gemma4_unified_text glm glm4 glm4_moe
glm4_moe_lite glm_moe_dsa gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj granite
granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared helium hunyuan_v1_dense
hunyuan_v1_moe hy_v3 hy_v4 hyperclovax inkling_text jais2 jamba jetmoe kolibri1 laguna lfm2 lfm2_moe
lfm3 llama llama4_text mamba mamba2 marian mbart megatron-bert mellum mimo_v2_flash minicpm3 minimax
minimax_m2 minimax_m3_vl_text ministral ministral3 mistral mixtral modernbert-decoder moshi mpt mvp
nanochat nemotron nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt opt pegasus persimmon phi
phi3 phimoe plbart qwen2 qwen2_moe qwen3 qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next
recurrent_gemma rembert roberta roberta-prelayernorm roc_bert roformer seed_oss smollm3 solar_open
stablelm starcoder2 trocr vaultgemma whisper xlm-roberta xlm-roberta-xl xmod youtu zamba zamba2 zaya
""".split()  # noqa: SIM905

# What a family does not have as linear maps of all tokens: all weights of the feed-forward part are
# experts' or in layers of their own, q or k cannot be told from the rest, there is no attention.
LACKING: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("cohere2_moe", "flex_olmo", "gpt_oss", "granitemoe", "inkling_text"), ("mlp",)
    ),
    **dict.fromkeys(("jamba", "mellum", "mimo_v2_flash", "minimax_m2", "mixtral"), ("mlp",)),
    **dict.fromkeys(("nemotron_h", "olmoe", "phimoe", "qwen3_moe", "zamba", "zamba2"), ("mlp",)),
    **dict.fromkeys(("falcon_mamba", "mamba", "mamba2"), ("q", "k", "mlp")),
    **dict.fromkeys(("deepseek_v4", "hy_v4"), ("k",)),
    "axk2": ("q",),
    "jetmoe": ("q", "o"),
    "minimax": ("q", "k", "mlp"),
}
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "emb_dim"), 32),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "dff"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "d_ff", "dim_ff"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 64),
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 32,
    # latent attention
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "qk_head_dim": 10,
    "v_head_dim": 10,
    "index_n_heads": 2,
    "index_head_dim": 8,
    # experts
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_intermediate_size"), 16),
    "shared_expert_intermediate_size": 16,
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    # state spaces and linear attention
    **dict.fromkeys(("mamba_n_heads", "mamba_d_head", "mamba_d_state", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_head_dim", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_groups", "n_groups"), 1),
    "mamba_d_ssm": 64,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
}
LATENT = {"head_dim": 4, "num_key_value_heads": 4}
HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
CONVOLUTIONAL = {"layer_types": ["conv", "full_attention"]}
SHARING = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
}
ZAMBA = {
    "num_hidden_layers": 4,
    "layers_block_type": ["mamba", "hybrid"] * 2,
    "attention_hidden_size": 64,
    "attention_head_dim": 16,
    "num_key_value_heads": 4,
}
PARTICULARS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32"), LATENT),
    **dict.fromkeys(("glm4_moe_lite", "glm_moe_dsa", "minicpm3", "youtu"), LATENT),
    **dict.fromkeys(("granitemoehybrid", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"), HYBRID),
    **dict.fromkeys(("lfm2_moe", "lfm3"), CONVOLUTIONAL),
    "bamba": {"attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 4},
    "dots1": {"n_shared_experts": 1},
    "gemma2": {"final_logit_softcapping": 5.0},
    "gemma3n_text": SHARING
    | {"altup_num_inputs": 2, "laurel_rank": 4, "activation_sparsity_pattern": None},
    "gemma4_text": SHARING,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "jetmoe": {"kv_channels": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "opt": {"word_embed_proj_dim": 16},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "roc_bert": {"shape_vocab_size": 20, "pronunciation_vocab_size": 20},
    "xmod": {"default_language": "en_XX"},
    "zamba": ZAMBA,
    "zamba2": ZAMBA | {"mamba_d_state": 8, "n_mamba_heads": 4, "mamba_headdim": 16},
    "zaya": {"num_experts_per_tok": 1},
}


def configure(model_type: str, **changes: Any) -> Any:
    """Return the tiny configuration of a model type."""
    fields = AutoConfig.for_model(model_type).to_dict()
    sizes = {name: value for name, value in SIZES.items() if name in fields}
    chosen = sizes | PARTICULARS.get(model_type, {}) | changes
    return AutoConfig.for_model(model_type, **chosen)


def build(model_type: str, **changes: Any) -> PreTrainedModel:
    """Return a random model of that family in float64, in training mode, dropout and all."""
    config = configure(model_type, **changes)
    # The fused expert kernel has no float64; the plain one computes the same.
    return AutoModelForCausalLM.from_config(config, experts_implementation="eager").double().train()
