"""A random decoder of a few thousand weights, for tests of what is done to weights."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def tiny_llama(**options):
    """Two layers, grouped-query attention, head and embeddings apart unless options say else."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**shape | options))
