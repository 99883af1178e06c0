"""Conversations as people keep them, brought to messages with a role and content."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from colm.data.values import as_text

Message: TypeAlias = dict[str, Any]
Turn: TypeAlias = tuple[str, str]

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
#: Keys of a ShareGPT message that are read.
SHARE_GPT_KEYS = ("from", "value")


def is_answered(messages: Any) -> bool:
    """Tell whether an assistant says or calls anything.

    Args:
        messages: Messages with a role; nothing is none.

    Returns:
        Whether there is anything to learn.

    Raises:
        ValueError: They are not a list of objects.
    """
    if messages is not None and not isinstance(messages, list):
        raise ValueError(f"messages are not a list but {messages!r:.80}")
    answers = [_is_answer(message) for message in messages or ()]
    return any(answers)


def _is_answer(message: Any) -> bool:
    _check_message(message)
    said = message.get("content")
    says = bool(said.strip() if isinstance(said, str) else said)
    return message.get("role") == "assistant" and (says or bool(message.get("tool_calls")))


def _check_message(message: Any) -> None:
    if not isinstance(message, Mapping):
        raise ValueError(f"a message is not an object but {message!r:.80}")


def from_share_gpt(conversation: Any) -> list[Message]:
    """Return the messages of a ShareGPT conversation.

    Args:
        conversation: Messages with ``from`` and ``value``, or already with ``role`` and
            ``content``, which stay as they are but for names of roles.

    Returns:
        Messages.

    Raises:
        ValueError: A message is not an object, or from someone unknown.

    Example:
        >>> from_share_gpt([{"from": "human", "value": "Why?"}])
        [{'role': 'user', 'content': 'Why?'}]
    """
    if conversation is not None and not isinstance(conversation, list):
        raise ValueError(f"a conversation is not a list but {conversation!r:.80}")
    return [_convert_message(message) for message in conversation or ()]


def _convert_message(message: Any) -> Message:
    _check_message(message)
    said_by = message.get("from")
    if not said_by and message.get("role"):
        return {**message, "role": _ROLES.get(message["role"], message["role"])}
    if said_by not in _ROLES:
        raise ValueError(f"a message is from {said_by!r:.80}; known are {', '.join(_ROLES)}")
    return {"role": _ROLES[said_by], "content": as_text(message.get("value"), "value")}


def with_system(messages: list[Message], system: str) -> list[Message]:
    """Return messages that begin with a system message; one of their own stays.

    Args:
        messages: Messages with a role.
        system: What it says; blank for none.

    Returns:
        Messages.

    Example:
        >>> with_system([{"role": "user", "content": "Why?"}], "Be brief.")[0]
        {'role': 'system', 'content': 'Be brief.'}
    """
    own = bool(messages) and messages[0].get("role") in ("system", "developer")
    if not system.strip() or own:
        return messages
    return [{"role": "system", "content": system}, *messages]


def as_turns(history: Any) -> list[Turn]:
    """Return the turns that went before a question.

    Args:
        history: Pairs of what was asked and answered, or the JSON text of them; nothing for none.

    Returns:
        Pairs of text.

    Raises:
        ValueError: It is anything else.

    Example:
        >>> as_turns('[["2 + 2?", 4]]')
        [('2 + 2?', '4')]
    """
    turns = history
    if not isinstance(history, list):
        text = as_text(history, "history")
        turns = _from_json(text, "history") if text.strip() else []
    if not isinstance(turns, list) or not all(map(_is_turn, turns)):
        raise ValueError(f"history is not pairs of question and answer but {history!r:.80}")
    return [(as_text(asked, "history"), as_text(told, "history")) for asked, told in turns]


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, Sequence) and not isinstance(turn, str) and len(turn) == 2


def as_tools(tools: Any) -> Any:
    """Return what TRL takes for tools: a list, the JSON text of one, or nothing.

    Args:
        tools: Cell of a record.

    Returns:
        The same, nothing where it is blank.

    Raises:
        ValueError: It is anything else.
    """
    if isinstance(tools, list):
        return tools
    text = as_text(tools, "tools")
    if not text.strip():
        return None
    if not isinstance(_from_json(text, "tools"), list):
        raise ValueError(f"tools are not a list but {text!r:.80}")
    return tools


def as_template_options(options: Any) -> dict[str, Any]:
    """Return the options that a record gives its chat template; TRL takes no nothing.

    Args:
        options: Cell of a record: an object, the JSON text of one, or nothing.

    Returns:
        An object, empty where there is nothing.

    Raises:
        ValueError: It is anything else.
    """
    if not isinstance(options, Mapping):
        text = as_text(options, "chat_template_kwargs")
        options = _from_json(text, "chat_template_kwargs") if text.strip() else {}
    if not isinstance(options, Mapping):
        raise ValueError(f"chat_template_kwargs is not an object but {options!r:.80}")
    return dict(options)


def _from_json(text: str, column: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{column} is not JSON but {text!r:.80}") from error
