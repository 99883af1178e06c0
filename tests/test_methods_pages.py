"""Every method has a row that says how stable it is; every paper, one in the index."""

import re
from pathlib import Path

import pytest

from colm.coreset.mixture import CANDIDATE_SAMPLINGS
from colm.gradients.value_gradients import ESTIMATORS
from colm.memory.low_rank_adam import SUBSPACES
from colm.memory.random_directions import DIRECTIONS
from colm.memory.zeroth_order_options import SLOPE_ESTIMATORS, UPDATES
from colm.training.optimizers import OPTIMIZERS
from colm.training.options.memory_arguments import MEMORY_SWITCHES
from colm.training.options.option_checks import STORED_LOSS_RULES
from tests.option_tables import shipped

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TABLE = re.compile(r"<!-- status: ([\w ]+) -->\n\|.*\n\|.*\n((?:\|.*\n)+)")
ARXIV = re.compile(r"(?i)arxiv(?:\.org/abs/| )(\d{4}\.\d{5})")
#: Pages on methods that are here; others cite papers that are not.
PAGES_ON_METHODS = ("selectors.md", "memory.md", "method.md", "contrastive.md")

WORDS_OF_ZEROTH_ORDER = {
    "estimator": SLOPE_ESTIMATORS,
    "update": UPDATES,
    "direction": DIRECTIONS,
}
KNOWN = {
    "selectors": shipped(),
    "gradients": ESTIMATORS,
    "draws": CANDIDATE_SAMPLINGS,
    "stored losses": STORED_LOSS_RULES,
    "memory": ["subspace_rank", *MEMORY_SWITCHES, *(f"optim: {name}" for name in OPTIMIZERS)],
    "low rank": SUBSPACES,
    "zeroth order": [f"{o}={value}" for o, vs in WORDS_OF_ZEROTH_ORDER.items() for value in vs],
}


@pytest.mark.parametrize("kind", KNOWN)
def test_every_method_is_said_to_be_stable_or_experimental(kind):
    tables = dict(TABLE.findall((DOCS / "stability.md").read_text()))
    assert tables.keys() == KNOWN.keys()
    rows = [line.strip("| ").split(" | ") for line in tables[kind].splitlines()]
    assert sorted(row[0] for row in rows) == sorted(f"`{name}`" for name in KNOWN[kind])
    assert {row[1] for row in rows} <= {"stable", "experimental"}


def test_every_paper_behind_a_method_is_in_the_index():
    places = [*(DOCS / page for page in PAGES_ON_METHODS), *(ROOT / "src").rglob("*.py")]
    cited = {number for place in places for number in ARXIV.findall(place.read_text())}
    indexed = set(ARXIV.findall((DOCS / "papers.md").read_text()))
    assert not cited - indexed, "docs/papers.md lacks a row"
