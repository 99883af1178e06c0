"""Arms of a comparison: ways of training by short names, told as options of ``colm sft``.

An arm is one way of training. A short form settles every option that a selector decides, so that
``colm`` is CoLM whatever the recipe says of selection; all else is the recipe's. Controls come by
themselves: plain mini-batches of r, plain ones of n, and for each arm that looks at candidates a
random choice with the same draws that keeps the same small sources. Symbols: n examples drawn for a
step, r trained on.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from colm.coreset.mixture import CANDIDATE_SAMPLINGS, SMALL_SOURCES_NONE
from colm.coreset.registry import available_selectors, get_selector
from colm.runs.arguments import parse_arguments
from colm.training.options.by_selector import options_by_selector
from colm.training.options.config import CoLMConfig
from colm.training.options.option_checks import STORED_LOSS_RULES
from colm.training.options.selection_arguments import NO_VALUE

PLAIN_R, PLAIN_N = "plain", "plain_n"
#: Always among the arms of a comparison.
PLAIN_ARMS = (PLAIN_R, PLAIN_N)
AS_IN_RECIPE, EVEN = "recipe", "even"
#: Times n, of the plain arms that train on more than r.
_LARGER = {PLAIN_N: 1, "plain_2n": 2}
_MEANINGS = {
    AS_IN_RECIPE: "as the recipe says",
    PLAIN_R: "r examples drawn uniformly, all trained on",
    PLAIN_N: "n examples drawn uniformly, all trained on",
    "plain_2n": "2n examples drawn uniformly, all trained on",
    EVEN: "r examples, every source equally often (unimax), all trained on",
}
#: Drawn so where the recipe has them.
_WEIGHTS = "weights"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,60}")
#: What a comparison settles itself, for all arms alike.
_SETTLED = re.compile(
    r"(output_dir|seed|data_seed|config|max_steps|num_train_epochs|lr_scheduler_\w+|warmup_\w+"
    r"|model_name_or_path|datasets?(_\w+)?|test_split_size|source_column|save_\w+|eval_\w+"
    r"|resume_from_checkpoint|report_to|push_to_hub)"
)


@dataclass(frozen=True)
class ArmOptions:
    """One way of training.

    Attributes:
        name: By which it is told, and its folders are called.
        options: Of ``colm sft``, over those of the recipe.
        meaning: What it is, in a few words.
        looks: Whether a model looks at candidates before it trains on some.
        control: Name of the arm that tells what the look does by itself, of an arm that looks.
    """

    name: str
    options: Mapping[str, Any]
    meaning: str
    looks: bool = False
    control: str | None = None


def short_forms() -> tuple[str, ...]:
    """Return the names that arms have without being told what they are."""
    drawn = (name for name in CANDIDATE_SAMPLINGS if name not in ("uniform", _WEIGHTS))
    return tuple(dict.fromkeys([*_MEANINGS, *drawn, *STORED_LOSS_RULES, *available_selectors()]))


def make_arms(
    names: Sequence[str], recipe: Sequence[str], plain: Sequence[str] = PLAIN_ARMS
) -> list[ArmOptions]:
    """Return arms and the controls that they are held against.

    Args:
        names: Short forms, or ``name:option=value,option=value`` for one's own.
        recipe: What ``colm sft`` is told, as on its command line.
        plain: Names of the plain arms that are to be among them.

    Returns:
        The arms in their order, without any twice; then the controls that are not among them.

    Raises:
        ValueError: A name is none, or an option cannot be.
    """
    training = parse_arguments(recipe).training
    arms: list[ArmOptions] = []
    for name in dict.fromkeys([*names, *plain]):
        arm = _own_arm(name, training) if ":" in name else _short_form(name, training)
        if arm.name in {each.name for each in arms}:
            raise ValueError(f"arm '{arm.name}' is there twice")
        arms.append(arm)
    for place, arm in enumerate(list(arms)):
        settled = _settled_options(arm, recipe)
        if settled.candidate_ratio > 1 and get_selector(settled.selector).needs:
            control = _control_of(arm, settled, arms)
            arms[place] = replace(arm, looks=True, control=control.name)
    return arms


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Return options as they stand on a command line; those that are ``None`` are left out.

    Args:
        options: Values by name.

    Example:
        >>> option_words({"weighted": True, "projections": ["q", "v"], "seed": 3, "lora_r": None})
        ['--weighted=true', '--projections', 'q', 'v', '--seed=3']
    """
    words: list[str] = []
    for name, value in options.items():
        if isinstance(value, list | tuple):
            words += [f"--{name}", *map(str, value)]
        elif isinstance(value, Mapping):
            words.append(f"--{name}={json.dumps(value)}")
        elif value is not None:
            words.append(f"--{name}={str(value).lower() if isinstance(value, bool) else value}")
    return words


def _short_form(name: str, training: CoLMConfig) -> ArmOptions:
    """The arm that a short form stands for."""
    if name not in short_forms() and not (name == _WEIGHTS and training.source_weights):
        raise ValueError(
            f"--arms: there is no arm '{name}'; there is {', '.join(short_forms())}, or "
            "name:option=value,option=value"
        )
    if name == AS_IN_RECIPE:
        return ArmOptions(name, {}, _MEANINGS[name])
    if name in available_selectors():
        ratio = {"candidate_ratio": _ratio(training)}
        options = _settle(name, ratio, training)
        meaning = f"selector {name}, of n examples drawn {_drawn(options['candidate_sampling'])}"
        if "gradients" in get_selector(name).needs:
            meaning += f", by gradients that are {options['gradient']}"
        return ArmOptions(name, options, meaning + _set_aside(name, options, training))
    draws = {EVEN: "unimax", PLAIN_R: "uniform"}.get(name, name)
    own: dict[str, Any] = {}
    meaning = _MEANINGS.get(name, f"r examples drawn {_drawn(draws)}, all trained on")
    if name in _LARGER:
        draws, own = "uniform", _batches_of(training, _LARGER[name])
    elif name in STORED_LOSS_RULES:
        draws, own = "uniform", {"stored_losses": name}
        meaning = f"r examples drawn by the stored losses of {name}, all trained on"
    own |= {"candidate_ratio": 1, "candidate_sampling": draws}
    return ArmOptions(name, _settle("none", own, training), meaning)


def _own_arm(text: str, training: CoLMConfig) -> ArmOptions:
    """The arm of a name and options; with a selector, the other options are as it brings them."""
    name, _, given = text.partition(":")
    if not _NAME.fullmatch(name) or name in short_forms():
        raise ValueError(
            f"--arms: '{name}' in '{text}' cannot be the name of an arm of one's own: take "
            "letters, digits and underscores, and no short form"
        )
    options: dict[str, Any] = {}
    for pair in given.split(","):
        option, sign, value = pair.strip().partition("=")
        option = option.replace("-", "_")
        if not sign or not option.isidentifier():
            raise ValueError(f"--arms: '{pair}' in '{text}' is no option=value")
        if _SETTLED.fullmatch(option):
            raise ValueError(f"--arms: {option} of '{name}' is the same for all arms")
        options[option] = value.split() if " " in value else value
    if "selector" in options:
        selector = str(options["selector"])
        options = _settle(selector, {"candidate_ratio": _ratio(training), **options}, training)
    return ArmOptions(name, options, given)


def _settle(selector: str, own: Mapping[str, Any], training: CoLMConfig) -> dict[str, Any]:
    """All options that a selector decides, as its record has them, and over them one's own."""
    options = {"selector": selector, **options_by_selector(selector), **own}
    if options["candidate_sampling"] != _WEIGHTS and training.source_weights is not None:
        # The recipe's weights are for what is drawn by them.
        options.setdefault("source_weights", NO_VALUE)
    if training.stored_losses is not None:
        # So is the recipe's rule for the arm that is as the recipe says.
        options.setdefault("stored_losses", NO_VALUE)
    return options


def _set_aside(name: str, options: Mapping[str, Any], training: CoLMConfig) -> str:
    """What the recipe says otherwise than the arm of a selector has it, and which arm has that."""
    usual = options_by_selector(training.selector) if get_selector(name).needs else {}
    said = {option: getattr(training, option) for option in usual}
    other = {o: v for o, v in said.items() if v not in (usual[o], options[o])}
    if not other:
        return ""
    words = {o: " ".join(v) if isinstance(v, list) else str(v).lower() for o, v in other.items()}
    told = [f"{option}={word}" for option, word in words.items()]
    return (
        f"; the recipe's {', '.join(told)} is set aside, and would be in "
        f"'{name}_so:{','.join([f'selector={name}', *told])}'"
    )


def _settled_options(arm: ArmOptions, recipe: Sequence[str]) -> CoLMConfig:
    """The configuration of an arm; what cannot be is told with its name."""
    try:
        return parse_arguments([*recipe, *option_words(arm.options)]).training
    except ValueError as error:
        raise ValueError(f"arm '{arm.name}': {error}") from error


def _control_of(arm: ArmOptions, settled: CoLMConfig, arms: list[ArmOptions]) -> ArmOptions:
    """The random choice that draws as an arm and keeps its small sources, added where missing."""
    keeps = settled.small_sources != [SMALL_SOURCES_NONE]
    selector = "small_random" if keeps else "random"
    drawn = settled.candidate_sampling
    own = {
        "candidate_ratio": settled.candidate_ratio,
        "small_sources": settled.small_sources,
        "candidate_sampling": drawn,
    }
    if settled.stored_losses is not None:
        own["stored_losses"] = settled.stored_losses
    options = {**arm.options, **_settle(selector, own, settled)}
    for each in arms:
        if each.options == options:
            return each
    name = selector if drawn == "uniform" else f"{selector}_{drawn}"
    if name in {each.name for each in arms}:
        name = f"{arm.name}_random"
    kept = "; small sources kept" if keeps else ""
    control = ArmOptions(
        name, options, f"a random choice of n examples drawn {_drawn(drawn)}{kept}"
    )
    arms.append(control)
    return control


def _ratio(training: CoLMConfig) -> float:
    """The recipe's ratio, or the default where the recipe selects nothing."""
    given: float = training.candidate_ratio
    return given if given > 1 else CoLMConfig.candidate_ratio


def _batches_of(training: CoLMConfig, times: int) -> dict[str, Any]:
    """Micro-batches no larger than the recipe's that hold some times n examples in all."""
    size, batches = training.per_device_train_batch_size, training.gradient_accumulation_steps
    wanted = times * batches * round(size * _ratio(training))
    size = next(each for each in range(size, 0, -1) if wanted % each == 0)
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": wanted // size}


def _drawn(sampling: str) -> str:
    return "uniformly" if sampling == "uniform" else f"by {sampling}"


def arm_in_words(arm: ArmOptions) -> str:
    """Return an arm in a line.

    Args:
        arm: Any.

    Returns:
        Its name, what it is, and what it is held against.
    """
    against = f"; held against {arm.control}" if arm.control else ""
    return f"{arm.name}: {arm.meaning}{against}"
