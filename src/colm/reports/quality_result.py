"""Reading what ``benchmarks/quality.py`` wrote of a run, with its measurements on the way."""

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

from colm.reports.arm import Arm, Scores, as_number, clean_log
from colm.reports.comparison import Comparison

#: Under which a measurement stands in the log of the arm.
MACRO_LOSS = "eval_macro_loss"
_SECONDS = "colm/training_seconds"
_LOSS_OF = "loss/"
_NO_SETTINGS = {"arm", "log", "options", "sources", "small_sources", "steps", "measure_every"}


def is_quality_result(data: Any) -> bool:
    """Return whether a file's content is such a result.

    Args:
        data: As read from JSON.

    Returns:
        Whether it says so itself.
    """
    return isinstance(data, dict) and data.get("benchmark") == "quality"


def read_quality_result(data: Mapping[str, Any], name: str | None) -> Comparison:
    """Return a result as a comparison of one arm.

    Args:
        data: As read from JSON.
        name: Of the arm; by default the one it was run under, and its seed.

    Returns:
        Losses after the last step as scores, those before the first as the untouched model's, all
        of them in the log.

    Raises:
        ValueError: Something is missing or is not what it should be.
    """
    try:
        settings, repeats = data["settings"], data["repeats"]
        named = {key: str(value) for key, value in settings.items() if key not in _NO_SETTINGS} | {
            key: str(value) for key, value in settings["options"].items()
        }
        measured = [
            {"step": int(repeat["steps"]), MACRO_LOSS: as_number(repeat["macro"])}
            for repeat in repeats
        ]
        trained = clean_log(settings["log"])
        arm = Arm(
            name=name or f"{settings['arm']}, seed {settings['seed']}",
            scores=_scores(repeats[-1]),
            log_history=clean_log([*_without_measuring(trained, measured), *measured]),
            settings=named | {"machine": _machine(data.get("machine"))},
        )
        return Comparison(
            arms=[arm],
            before=_scores(repeats[0]) if repeats[0]["steps"] == 0 else None,
            source_sizes={str(k): int(v) for k, v in settings["sources"].items()},
            small_sources=[str(source) for source in settings["small_sources"]],
            settings={},
            versions={str(k): str(v) for k, v in data.get("versions", {}).items()},
            notes=_notes(trained),
        )
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError) as error:
        raise ValueError(f"not a whole result of benchmarks/quality.py ({error!r})") from error


def _scores(repeat: Mapping[str, Any]) -> Scores:
    """The losses of one measurement."""
    small = repeat.get("small")
    return Scores(
        macro=as_number(repeat["macro"]),
        micro=as_number(repeat["micro"]),
        small_sources=None if small is None else as_number(small),
        loss_by_source={
            key.removeprefix(_LOSS_OF): as_number(value)
            for key, value in repeat.items()
            if key.startswith(_LOSS_OF)
        },
    )


def _without_measuring(
    log: list[dict[str, float]], measured: list[dict[str, float]]
) -> list[dict[str, float]]:
    """The log with typical times at steps that were followed by a measurement.

    The clock of such a step runs on while the model is measured.
    """
    steps = {entry["step"] for entry in measured}
    others = [e[_SECONDS] for e in log if _SECONDS in e and e["step"] not in steps]
    typical = median(others) if others else math.nan
    return [
        entry | {_SECONDS: typical} if _SECONDS in entry and entry["step"] in steps else entry
        for entry in log
    ]


def _notes(log: list[dict[str, float]]) -> list[str]:
    if not any(_SECONDS in entry for entry in log):
        return []
    return [
        "The time of a step after which benchmarks/quality.py measured is taken as the median of "
        "the others', for measuring counts into what was logged."
    ]


def _machine(described: Any) -> str:
    """Processor and accelerator in words."""
    if not isinstance(described, Mapping):
        return "unknown"
    known = [described.get(key) for key in ("accelerator", "processor")]
    threads = described.get("threads")
    return ", ".join([*(str(k) for k in known if k), *([f"{threads} threads"] if threads else [])])
