"""Draw the page of ``colm report`` for runs of the benchmark ``quality``."""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from colm.json_text import read_json
from colm.reports import Arm, Comparison, Scores, join_comparisons, read_runs, write_page
from colm.reports.arm import as_number, clean_log

#: Under which a measurement stands in the log of the arm.
MACRO_LOSS = "eval_macro_loss"
_SECONDS = "colm/training_seconds"
_LOSS_OF = "loss/"
_NO_SETTINGS = {"arm", "log", "options", "sources", "small_sources", "steps", "measure_every"}


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="result files of the benchmark quality, and whatever colm report takes",
    )
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="the page")
    options = parser.parse_args()
    comparison = join_comparisons([read_run(path) for path in options.runs])
    print(f"wrote {write_page(options.output, comparison)}")


def read_run(path: Path) -> Comparison:
    """Return what a result of ``quality`` holds, or what ``colm report`` finds at a path.

    Raises:
        ValueError: it holds no run, or half a result.
    """
    data = read_json(path) if path.is_file() else None
    if not isinstance(data, dict) or data.get("benchmark") != "quality":
        return read_runs([path])
    try:
        return read_quality_result(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_quality_result(data: Mapping[str, Any]) -> Comparison:
    """Return a result as a comparison of one arm, called by its arm and its seed.

    Args:
        data: As read from JSON.

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
            name=f"{settings['arm']}, seed {settings['seed']}",
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
        raise ValueError(f"not a whole result of the benchmark quality ({error!r})") from error


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
        "The time of a step after which the benchmark quality measured is taken as the median of "
        "the others', for measuring counts into what was logged."
    ]


def _machine(described: Any) -> str:
    """Processor and accelerator in words."""
    if not isinstance(described, Mapping):
        return "unknown"
    known = [described.get(key) for key in ("accelerator", "processor")]
    threads = described.get("threads")
    return ", ".join([*(str(k) for k in known if k), *([f"{threads} threads"] if threads else [])])
