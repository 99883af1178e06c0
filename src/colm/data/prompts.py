"""The prompts that instructions become, with and without a chat template."""

from collections.abc import Sequence

#: Prompt for a model without a chat template; the completion follows it at once.
PLAIN_PROMPT = "### Instruction:\n{instruction}\n\n### Response:\n"
PLAIN_PROMPT_WITH_INPUT = (
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


def plain_prompt(
    instruction: str, text: str = "", system: str = "", history: Sequence[tuple[str, str]] = ()
) -> str:
    r"""Return the prompt for a model without a chat template.

    Args:
        instruction: What is asked.
        text: What it is asked about, if that comes apart from the question.
        system: What goes before everything.
        history: What was asked and answered before.

    Returns:
        Text that the completion follows at once.

    Example:
        >>> plain_prompt("Name a prime.")
        '### Instruction:\nName a prime.\n\n### Response:\n'
    """
    template = PLAIN_PROMPT_WITH_INPUT if text.strip() else PLAIN_PROMPT
    before = [f"{PLAIN_PROMPT.format(instruction=asked)}{told}" for asked, told in history]
    parts = [system, *before] if system.strip() else before
    return "\n\n".join([*parts, template.format(instruction=instruction, input=text)])


def continued_prompt(text: str, system: str = "") -> str:
    r"""Return text that the completion follows at once, after what goes before everything.

    Args:
        text: Prompt that is complete.
        system: What goes before it; blank for nothing.

    Returns:
        Text.

    Example:
        >>> continued_prompt("2 + 2 =", "Sums.")
        'Sums.\n\n2 + 2 ='
    """
    return f"{system}\n\n{text}" if system.strip() else text


def chat_prompt(
    instruction: str, text: str = "", system: str = "", history: Sequence[tuple[str, str]] = ()
) -> list[dict[str, str]]:
    """Return the prompt for a model with a chat template.

    Args:
        instruction: What is asked.
        text: What it is asked about, if that comes apart from the question.
        system: What the system message says; empty for none.
        history: What was asked and answered before.

    Returns:
        The system message, if any, two messages for each turn before, and the question.

    Example:
        >>> chat_prompt("Name a prime.")
        [{'role': 'user', 'content': 'Name a prime.'}]
    """
    messages = [{"role": "system", "content": system}] if system.strip() else []
    for asked, told in history:
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": told})
    content = f"{instruction}\n\n{text}" if text.strip() else instruction
    return [*messages, {"role": "user", "content": content}]
