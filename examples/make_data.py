"""The files in ``examples/data``: problems with whole answers, made by rule from a seed.

Three files that recipes and commands take, no question in two of them:
``problems.jsonl`` to train on, in the layout of TRL, with a column that names the source of each
record; ``stories.csv``, one more source; ``held-out.jsonl``, questions and answers of all sources
to evaluate on. Run it as ``python examples/make_data.py``; the same seed makes the same files.
"""

import argparse
import csv
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

FOLDER = Path(__file__).parent / "data"
HELD_OUT_PER_SOURCE = 5

Problem = tuple[str, str]

NAMES = ("Ada", "Ben", "Chloe", "Dan", "Elif", "Farid", "Grace", "Hugo")
THINGS = ("apples", "books", "coins", "eggs", "pens", "shells", "stamps", "tickets")
WORDS = (
    "anchor", "basket", "candle", "desert", "engine", "forest", "garden", "hammer", "island",
    "jacket", "kettle", "ladder", "mirror", "needle", "orange", "pencil", "rabbit", "saddle",
    "ticket", "window",
)  # fmt: skip
UNITS = (
    ("metres", "centimetres", 100), ("kilometres", "metres", 1000), ("hours", "minutes", 60),
    ("kilograms", "grams", 1000), ("days", "hours", 24),
)  # fmt: skip


def addition(draw: random.Random) -> Problem:
    """Two numbers of two digits."""
    left, right = draw.randint(10, 99), draw.randint(10, 99)
    return f"What is {left} + {right}?", str(left + right)


def subtraction(draw: random.Random) -> Problem:
    """A smaller number from a larger one."""
    right, left = sorted((draw.randint(10, 99), draw.randint(10, 99)))
    return f"What is {left} - {right}?", str(left - right)


def multiplication(draw: random.Random) -> Problem:
    """A number of two digits times one of one."""
    left, right = draw.randint(11, 60), draw.randint(2, 9)
    return f"What is {left} times {right}?", str(left * right)


def largest(draw: random.Random) -> Problem:
    """The largest of four numbers."""
    numbers = draw.sample(range(10, 1000), 4)
    listed = ", ".join(map(str, numbers))
    return f"Which is the largest of {listed}?", str(max(numbers))


def percentages(draw: random.Random) -> Problem:
    """A percentage that comes out whole."""
    percent, whole = draw.choice((10, 20, 25, 50, 75)), 20 * draw.randint(2, 40)
    return f"What is {percent} % of {whole}?", str(percent * whole // 100)


def reversals(draw: random.Random) -> Problem:
    """Two words, the last first."""
    first, second = draw.sample(WORDS, 2)
    return f"Say these words in reverse order: {first} {second}", f"{second} {first}"


def clock(draw: random.Random) -> Problem:
    """What a clock shows some hours later."""
    hour, later = draw.randint(0, 23), draw.randint(2, 20)
    asked = f"It is {hour:02}:00. Which hour, from 0 to 23, is it {later} hours later?"
    return asked, str((hour + later) % 24)


def units(draw: random.Random) -> Problem:
    """A whole number of one unit in a smaller one."""
    large, small, factor = draw.choice(UNITS)
    number = draw.randint(2, 60)
    return f"How many {small} are {number} {large}?", str(number * factor)


def stories(draw: random.Random) -> Problem:
    """Someone has things, gets some and gives some away."""
    name, thing = draw.choice(NAMES), draw.choice(THINGS)
    had, got, gave = draw.randint(5, 40), draw.randint(2, 30), draw.randint(1, 5)
    asked = (
        f"{name} has {had} {thing}, gets {got} more and gives {gave} away. How many {thing} does "
        f"{name} have now?"
    )
    return asked, str(had + got - gave)


#: Kind of problem -> how many to train on. The last five have less than the average: small sources.
SOURCES: dict[Callable[[random.Random], Problem], int] = {
    addition: 110,
    subtraction: 90,
    multiplication: 60,
    largest: 24,
    percentages: 20,
    reversals: 16,
    clock: 12,
    units: 8,
}
STORIES = 80


def main(arguments: list[str] | None = None) -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files go")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    train, held_out = [], []
    for make, count in SOURCES.items():
        problems = distinct(make, options.seed)
        held_out += [ask(make, next(problems)) for _ in range(HELD_OUT_PER_SOURCE)]
        train += [converse(make, next(problems)) for _ in range(count)]
    problems = distinct(stories, options.seed)
    held_out += [ask(stories, next(problems)) for _ in range(HELD_OUT_PER_SOURCE)]
    random.Random(options.seed).shuffle(train)
    write_lines(options.folder / "problems.jsonl", train)
    write_lines(options.folder / "held-out.jsonl", held_out)
    with (options.folder / "stories.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["number", "question", "answer"])
        writer.writerows([n, *next(problems)] for n in range(1, STORIES + 1))


def distinct(make: Callable[[random.Random], Problem], seed: int) -> Iterator[Problem]:
    """Yield problems of a kind, no question twice."""
    draw, asked = random.Random(f"{seed}/{make.__name__}"), set()
    while True:
        problem = make(draw)
        if problem[0] not in asked:
            asked.add(problem[0])
            yield problem


def ask(make: Callable[[random.Random], Problem], problem: Problem) -> dict:
    """Return a problem as a question with its answer."""
    return {"question": problem[0], "answer": problem[1], "source": make.__name__}


def converse(make: Callable[[random.Random], Problem], problem: Problem) -> dict:
    """Return a problem as a prompt with its completion, which TRL and colm take as they are."""
    return {
        "prompt": [{"role": "user", "content": problem[0]}],
        "completion": [{"role": "assistant", "content": problem[1]}],
        "source": make.__name__,
    }


def write_lines(path: Path, records: list[dict]) -> None:
    """Write one record a line."""
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")


if __name__ == "__main__":
    main()
