"""Right answers of the models that `benchmarks quality` trained, by ``colm evaluate``.

``python -m benchmarks accuracy --adapters DIR --label NAME --data FILE ... --answers DIR`` asks
every adapter that `benchmarks quality --adapters DIR` kept under that label. Of questions and
answers, which are whoever's data they are of, nothing goes into the results: those stay in the
folder ``--answers``. What is there is not evaluated again. What else is given, ``--limit 50`` or
``--method chain`` for instance, goes to ``colm evaluate``.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, machine, write_result
from colm.cli import main as colm

# Of each set of questions; all else would hold its text.
KEPT = ("file", "sha256", "method", "questions", "accuracy", "standard_error", "answered_by")


def main() -> None:
    """Evaluate what is missing, and say where results lie."""
    options, rest = parse()
    folder = RESULTS / "accuracy" / options.label
    for adapter in adapters(options):
        path = folder / f"{adapter.name}.json"
        if path.exists():
            print(f"{adapter.name}: done before", flush=True)
            continue
        found = evaluate(adapter, options, rest)
        folder.mkdir(parents=True, exist_ok=True)
        keep(found, options, rest, path)
        accuracies = {name: one["accuracy"] for name, one in found["sets"].items()}
        print(f"{adapter.name}: {accuracies}", flush=True)
    print(f"results are in {folder.name} of {folder.parent.name}, measured on {machine()}")


def parse(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Read the options; what is left is for ``colm evaluate``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--adapters", required=True, help="that benchmarks quality kept")
    parser.add_argument("--label", required=True, help="of those runs")
    parser.add_argument("--data", nargs="+", required=True, help="files of questions")
    parser.add_argument("--answers", required=True, help="folder for every answer")
    return parser.parse_known_args(arguments)


def adapters(options: argparse.Namespace) -> list[Path]:
    """Every adapter of the label; at least one."""
    folder = Path(options.adapters) / options.label
    found = sorted(path.parent for path in folder.glob("*/adapter_config.json"))
    if not found:
        raise SystemExit(f"--adapters: no adapter in {folder}")
    return found


def evaluate(adapter: Path, options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    """Let ``colm evaluate`` ask one model, and read what it found."""
    output = Path(options.answers) / options.label / f"{adapter.name}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    # The papers' models write programs; another method may be asked for.
    asked = [] if any(word.startswith("--method") for word in rest) else ["--programs"]
    words = ["--output", str(output), *asked, *rest, "--data", *options.data]
    code = colm(["evaluate", str(adapter), *words])
    if code:
        raise SystemExit(code)
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def keep(found: dict[str, Any], options: argparse.Namespace, rest: list[str], path: Path) -> None:
    """Write the accuracies beside what it takes to repeat them."""
    names = [Path(file).name for file in options.data]
    settings = {"label": options.label, "data": names, "options": rest}
    accuracies = {name: one["accuracy"] for name, one in found["sets"].items()}
    write_result("accuracy", settings, [accuracies], accuracies, path)
    result = json.loads(path.read_text())
    result["sets"] = {name: {key: one[key] for key in KEPT} for name, one in found["sets"].items()}
    path.write_text(json.dumps(result, indent=1) + "\n")
