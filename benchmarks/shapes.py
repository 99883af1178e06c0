"""Models of real shapes with random weights, and data for them: benchmarks that download nothing.

Times and memory depend on shapes, lengths and types, not on what weights say. Weights are drawn on
the device itself. Examples are random tokens: frequencies fall as one over the rank, as words' do;
lengths are log-normal and cut at the most allowed; a prompt without labels comes first; sources
differ in size as 1, 1/2, 1/3 and so on.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PhiConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

PADDING, END, FIRST_WORD = 0, 1, 3
SOURCES = 14
MEDIAN_LENGTH = 0.45  # of the longest allowed
LENGTH_SPREAD = 0.6  # standard deviation of the logarithm
SHORTEST = 16


@dataclass(frozen=True)
class Shape:
    """A model to be built: its configuration, and the LoRA that is usual for it."""

    config: Callable[[], Any]
    lora: Callable[[], LoraConfig]


def _phi_2() -> PhiConfig:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.4}
    return PhiConfig(
        vocab_size=51200,
        hidden_size=2560,
        intermediate_size=10240,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=2048,
        rope_parameters=rope,
    )


def _llama(
    vocabulary: int, hidden: int, inner: int, layers: int, heads: int, key_value_heads: int
) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=hidden < 1024,
    )


def _lora(rank: int, alpha: int, *targets: str) -> LoraConfig:
    modules = list(targets) or "all-linear"
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=modules, task_type="CAUSAL_LM")


SHAPES = {
    # 2.8 billion parameters, and the LoRA of arXiv 2407.19580.
    "phi-2": Shape(_phi_2, lambda: _lora(128, 512, "q_proj", "k_proj", "v_proj", "fc1", "fc2")),
    "smollm2": Shape(lambda: _llama(49152, 576, 1536, 30, 9, 3), lambda: _lora(16, 32)),
    "llama-3-8b": Shape(lambda: _llama(128256, 4096, 14336, 32, 32, 8), lambda: _lora(16, 32)),
    "tiny": Shape(lambda: _llama(512, 32, 64, 8, 4, 2), lambda: _lora(4, 8)),
}


def random_model(name: str, dtype: torch.dtype) -> PreTrainedModel:
    """Build the model of a shape, on the accelerator where there is one."""
    with torch.device(torch.accelerator.current_accelerator(check_available=True) or "cpu"):
        return AutoModelForCausalLM.from_config(shape_config(name), dtype=dtype)


def shape_config(name: str) -> Any:
    """Return the configuration of a shape, with the special tokens of `word_tokenizer`."""
    config = SHAPES[name].config()
    config.pad_token_id, config.eos_token_id, config.bos_token_id = PADDING, END, None
    return config


def word_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """Make the least tokenizer that a trainer takes; random examples need none."""
    words = {"<pad>": PADDING, "<end>": END, "<unknown>": 2}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unknown>")),
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unknown>",
        model_max_length=max_length,
    )


def random_examples(number: int, vocabulary: int, max_length: int, seed: int) -> Dataset:
    """Draw tokenised examples with labels and sources."""
    rng = random.Random(seed)
    shares = [1 / (rank + 1) for rank in range(SOURCES)]
    records = []
    for _ in range(number):
        drawn = math.exp(rng.gauss(math.log(MEDIAN_LENGTH * max_length), LENGTH_SPREAD))
        length = min(max_length, max(SHORTEST, round(drawn)))
        prompt = round(length * rng.uniform(0.2, 0.6))
        words = vocabulary - FIRST_WORD
        tokens = [FIRST_WORD + int(words ** rng.random()) - 1 for _ in range(length - 1)] + [END]
        labels = [-100] * prompt + tokens[prompt:]
        source = f"source-{rng.choices(range(SOURCES), shares)[0]}"
        records.append({"input_ids": tokens, "labels": labels, "source": source})
    return Dataset.from_list(records)
