"""A language model of bytes, small enough to train from nothing in thousands of steps on a CPU.

A pretrained model knows most of what a mixture asks, and minutes on a CPU teach it little more:
spreads of seeds are then as large as what sets methods apart. This one learns everything from the
mixture. Both parts are the libraries' own, in shapes of their own.
"""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<end>"
#: Roles are bytes of the text, as everything else.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\n' }}{% endif %}"
    "{% endfor %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each byte, and one for the end, which pads, too."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {byte: number for number, byte in enumerate([END, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, chat_template=CHAT_TEMPLATE
    )


def small_model(tokens: int) -> LlamaForCausalLM:
    """Return an untrained decoder of 0.4 million weights, drawn from the global random state.

    Args:
        tokens: of the vocabulary.
    """
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokens,
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
