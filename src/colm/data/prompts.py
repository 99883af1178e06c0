"""The prompts that instructions become, with and without a chat template."""

#: Prompt for a model without a chat template; the completion follows it at once.
PLAIN_PROMPT = "### Instruction:\n{instruction}\n\n### Response:\n"
PLAIN_PROMPT_WITH_INPUT = (
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


def plain_prompt(instruction: str, text: str = "", system: str = "") -> str:
    r"""Return the prompt for a model without a chat template.

    Args:
        instruction: What is asked.
        text: What it is asked about, if that comes apart from the question.
        system: What goes before everything.

    Returns:
        Text that the completion follows at once.

    Example:
        >>> plain_prompt("Name a prime.")
        '### Instruction:\nName a prime.\n\n### Response:\n'
    """
    template = PLAIN_PROMPT_WITH_INPUT if text.strip() else PLAIN_PROMPT
    prompt = template.format(instruction=instruction, input=text)
    return f"{system}\n\n{prompt}" if system.strip() else prompt


def chat_prompt(instruction: str, text: str = "", system: str = "") -> list[dict[str, str]]:
    """Return the prompt for a model with a chat template.

    Args:
        instruction: What is asked.
        text: What it is asked about, if that comes apart from the question.
        system: What the system message says; empty for none.

    Returns:
        One message, or two with a system message.

    Example:
        >>> chat_prompt("Name a prime.")
        [{'role': 'user', 'content': 'Name a prime.'}]
    """
    content = f"{instruction}\n\n{text}" if text.strip() else instruction
    asked = {"role": "user", "content": content}
    return [{"role": "system", "content": system}, asked] if system.strip() else [asked]
