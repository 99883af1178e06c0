"""The page: self-contained, truthful in its headline, and complete."""

import dataclasses
import re
from html.parser import HTMLParser

import matplotlib as mpl
import pytest

from colm.reports import bars, curves, headline, write_report

VOID = {"meta", "br", "img", "link", "input", "hr"}
#: What would make a browser fetch something.
FETCHES = (
    r"""(?:src|href|action|data|poster)\s*=\s*(?!["']?#)|url\((?!["']?#)|@import|<script|<link"""
)


class Outline(HTMLParser):
    """Checks that elements nest, and notes titles and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.titles: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if self.open and self.open[-1] in {"h1", "h2", "h3"}:
            self.titles.append(data)
        if "style" not in self.open:
            self.text.append(data)


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    assert not parser.open
    return parser


@pytest.fixture
def page(comparison, tmp_path) -> str:
    return write_report(tmp_path / "report.html", comparison).read_text("utf-8")


@pytest.mark.slow
def test_nothing_is_fetched(page: str) -> None:
    assert re.findall(FETCHES, page) == []
    addresses = set(re.findall(r"https?://[^\"'\s<>]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


@pytest.mark.parametrize(
    "text", ['<img src="x.png">', "<a href=x>", "url(x.woff)", "<script>", '@import "x"']
)
def test_a_fetch_would_be_seen(text: str) -> None:
    assert re.search(FETCHES, text)


@pytest.mark.slow
def test_every_plot_and_table_is_there(page: str) -> None:
    titles = outline(page).titles
    assert "16.7% lower" in titles[0]
    assert titles[1:] == [
        "Plots",
        "Held-out loss by source",
        "Accuracy by source",
        "Training loss",
        "Draws by source",
        "Small sources over time",
        "Share of each source kept",
        "Sources kept over time: CoLM",
        "Sources kept over time: random",
        "Matching error",
        "Where the time of a step goes",
        "What was drawn of each source",
        "What was kept of each source",
        "Held-out loss of each source",
        "Settings",
        "Versions",
    ]
    assert page.count("<svg") == 10
    assert page.count('role="img"') == 10


def test_what_is_not_there_is_left_out(unscored, tmp_path) -> None:
    arms = [
        dataclasses.replace(arm, log_history=[{"step": 1, "loss": 2.0}]) for arm in unscored.arms
    ]
    bare = dataclasses.replace(unscored, arms=arms, small_sources=[])
    page = write_report(tmp_path / "bare.html", bare).read_text("utf-8")
    titles = outline(page).titles
    assert "Training loss" in titles
    assert "A step took" not in page
    assert not {"Accuracy by source", "Matching error", "Share of each source kept"} & set(titles)


@pytest.mark.slow
def test_texts_are_escaped_and_shown(page: str) -> None:
    text = " ".join(outline(page).text)
    assert "tiny <model>" in text
    assert "One run & one seed." in text
    assert "over 2 sources, went from 3.000 to 1.250 with CoLM and 1.500 with random." in text
    assert "it went from 2.900 to 1.200 with CoLM and 1.100 with random." in text
    assert "A step took 3.0 s with CoLM and 2.0 s with random." in text


@pytest.mark.slow
def test_data_lies_beside_the_page(comparison, tmp_path) -> None:
    write_report(tmp_path / "report.html", comparison)
    assert type(comparison).load(tmp_path / "report.json") == comparison


@pytest.mark.slow
def test_the_same_comparison_gives_the_same_page(comparison, tmp_path) -> None:
    one, other = (write_report(tmp_path / name, comparison) for name in ("1.html", "2.html"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("macro", "sentence"),
    [
        (1.35, "CoLM ends 10.0% lower in held-out loss than random after 6 steps"),
        (1.65, "CoLM ends 10.0% higher in held-out loss than random after 6 steps"),
        (1.503, "CoLM and random are level in held-out loss after 6 steps"),
    ],
)
def test_the_headline_says_which_way_it_went(comparison, macro: float, sentence: str) -> None:
    first = comparison.arms[0]
    worse = dataclasses.replace(first, scores=dataclasses.replace(first.scores, macro=macro))
    assert headline(dataclasses.replace(comparison, arms=[worse, comparison.arms[1]])) == sentence


def test_one_arm_has_a_headline_too(comparison) -> None:
    alone = dataclasses.replace(comparison, arms=comparison.arms[:1])
    assert headline(alone) == "CoLM: held-out loss 1.250 after 6 steps"


def test_plots_hold_what_they_show(comparison) -> None:
    svg = bars.plot_held_out(comparison)
    assert all(f">{name}<" in svg for name in ("sums", "dates", "CoLM", "random", "held-out loss"))
    assert "var(--arm-0)" in svg
    assert curves.plot_error(comparison, "colm/matching_error", "error").count(">random<") == 0


def test_bars_are_as_long_as_their_values(comparison) -> None:
    lengths = []
    for path in re.findall(r'<path d="([^"]*)"\s+clip-path', bars.plot_held_out(comparison)):
        across = [float(x) for x in re.findall(r"[ML] (\S+) \S+", path)]
        lengths.append(max(across) - min(across))
    assert lengths[:4] == pytest.approx(
        [lengths[0] * v / 1.2 for v in (1.2, 1.3, 1.4, 1.6)], rel=1e-3
    )


def test_no_state_of_matplotlib_changes(comparison) -> None:
    before = dict(mpl.rcParams)
    curves.plot_training_loss(comparison)
    assert dict(mpl.rcParams) == before


def test_no_colour_is_left_unlent(comparison) -> None:
    svg = bars.plot_answers(comparison)
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#ffffff"}
