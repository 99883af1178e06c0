"""Tiny random causal language models of the families that the features must work on."""

from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CodeGenConfig,
    DeepseekV3Config,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MixtralConfig,
    MptConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    StableLmConfig,
)

VOCABULARY = 61
COMMON = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = COMMON | {"num_key_value_heads": 2}

# The families whose features are held to 1e-9, then those that only place V differently.
FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "phi": PhiConfig(**COMMON),
    "phi3": Phi3Config(**GROUPED),
    "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=VOCABULARY, n_positions=64),
    "gpt_neox": GPTNeoXConfig(**COMMON),
    "gemma2": Gemma2Config(**GROUPED, head_dim=8, final_logit_softcapping=5.0),
    "stablelm": StableLmConfig(**COMMON, num_key_value_heads=4),
    "opt": OPTConfig(
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=VOCABULARY,
        word_embed_proj_dim=16,
        max_position_embeddings=64,
        pad_token_id=0,
    ),
    "mixtral": MixtralConfig(**GROUPED, num_local_experts=4),
}
LAYOUTS: dict[str, PretrainedConfig] = {
    "bloom": BloomConfig(hidden_size=32, n_layer=3, n_head=4, vocab_size=VOCABULARY),
    "falcon": FalconConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, vocab_size=VOCABULARY
    ),
    "codegen": CodeGenConfig(
        n_embd=32, n_layer=3, n_head=4, n_positions=64, rotary_dim=4, vocab_size=VOCABULARY
    ),
    "mpt": MptConfig(d_model=32, n_heads=4, n_layers=3, vocab_size=VOCABULARY, max_seq_len=64),
    "deepseek_v3": DeepseekV3Config(
        **COMMON,
        num_key_value_heads=4,
        moe_intermediate_size=16,
        first_k_dense_replace=3,
        n_routed_experts=8,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_nope_head_dim=6,
        qk_rope_head_dim=4,
        v_head_dim=10,
    ),
    "mamba": MambaConfig(hidden_size=32, num_hidden_layers=3, vocab_size=VOCABULARY),
}


def build(name: str) -> PreTrainedModel:
    """Return a random model of that family in float64, in training mode, dropout and all."""
    config = (FAMILIES | LAYOUTS)[name]
    # The fused expert kernel has no float64; the plain one computes the same.
    options = {"experts_implementation": "eager"} if name == "mixtral" else {}
    return AutoModelForCausalLM.from_config(config, **options).double().train()
