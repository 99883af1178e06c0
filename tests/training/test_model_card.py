"""The card says what ran, cites what fits, and no name in it makes a line or a cell of its own."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from colm import CoLMConfig, CoLMSFTTrainer, available_selectors, register_selector
from colm.coreset import registry
from colm.names import shown_name
from colm.reports import read_runs
from colm.run_record import write_record
from colm.runs.model_card import as_code, describe_training, write_model_card
from colm.training.citing import citing_software
from colm.training.papers import as_trl_cites, name_of_method, papers_of
from colm.training.recording import record_of
from colm.training.step.record import SelectionMetrics


def config(folder: Path, **options) -> CoLMConfig:
    return CoLMConfig(str(folder), use_cpu=True, bf16=False, report_to="none", **options)


@pytest.mark.parametrize("selector", available_selectors())
def test_what_chose_is_what_the_card_says(selector: str, tmp_path) -> None:
    args = config(tmp_path, selector=selector)
    text = describe_training(record_of(args))
    assert f"`{selector}`" in text
    cited = as_trl_cites(papers_of(args))
    name = name_of_method(args)
    if selector == "colm":
        assert name == "CoLM"
        assert cited["title"].startswith("Mini-batch Coresets")
        assert "nguyen2025colm" in cited["citation"]
    elif selector == "ssm":
        assert name == "SSM"
        assert cited["title"].startswith("Memory-efficient Training")
        assert "nguyen2025colm" not in cited["citation"]
    else:
        assert cited == {}
        assert "CoLM" not in name
        assert "SSM" not in name
        assert name == "SFT" if selector == "none" else selector in name
    drawn, trained = (16, 16) if selector == "none" else (16, 8)
    assert re.search(rf"drew {drawn} examples.* {trained} of them", text)


def test_where_nothing_is_selected_nothing_says_so(tmp_path) -> None:
    args = config(tmp_path, candidate_ratio=1)
    text = describe_training(record_of(args))
    assert name_of_method(args) == "SFT"
    assert papers_of(args) == []
    assert re.search("drew 8 examples.* 8 of them", text)
    assert "Nothing was selected" in text
    assert "`selector`" not in text
    assert "`distance`" not in text


def test_plain_training_is_described_whatever_the_column_holds(tmp_path) -> None:
    data = Dataset.from_dict({"text": ["a", "b"], "source": ["web", None]})
    text = describe_training(record_of(config(tmp_path, candidate_ratio=1), data))
    assert "Training data" not in text


@pytest.mark.parametrize(
    ("options", "name", "numbers"),
    [
        ({"candidate_ratio": 1}, "SFT in random subspaces (RSO)", ["2502.07222"]),
        ({}, "CoLM in random subspaces (RSO)", ["2407.19580", "2502.07222"]),
        ({"selector": "random"}, "random in random subspaces (RSO)", ["2502.07222"]),
    ],
)
def test_subspaces_are_said_and_cited(options: dict, name: str, numbers, tmp_path) -> None:
    args = config(tmp_path, subspace_rank=4, **options)
    assert name_of_method(args).endswith(name)
    papers = papers_of(args)
    assert [paper.arxiv for paper in papers] == numbers
    cited = as_trl_cites(papers)
    assert "chen2025rso" in cited["citation"]
    # No one paper introduced the two together.
    assert ("title" in cited) == (len(numbers) == 1)
    text = describe_training(record_of(args))
    assert "### Random subspaces" in text
    assert "| `subspace_rank` | `4` |" in text


@pytest.mark.parametrize(
    ("options", "name", "number"),
    [
        ({"optim": "lamb"}, "SFT and LAMB", "1904.00962"),
        ({"optim": "came"}, "SFT and CAME", "2307.02047"),
        ({"optim": "low_rank_adam"}, "SFT and low-rank Adam", "2403.03507"),
        *(
            (
                {"optim": "low_rank_adam", "optim_args": f"subspace={subspace}"},
                "SFT and low-rank Adam",
                number,
            )
            for subspace, number in {
                "sampled": "2502.05790",
                "random": "2410.11289",
                "wavelet": "2501.07237",
                "sketched": "2502.00311",
            }.items()
        ),
    ],
)
def test_optimisers_by_name_are_said_and_cited(options: dict, name: str, number, tmp_path) -> None:
    args = config(tmp_path, candidate_ratio=1, **options)
    assert name_of_method(args) == name
    (paper,) = papers_of(args)
    assert paper.arxiv == number
    assert number in as_trl_cites([paper])["citation"]
    text = describe_training(record_of(args))
    for option, value in options.items():
        assert f"| `{option}` | `{value}` |" in text


def test_draws_stored_losses_and_averages_are_said_and_cited(tmp_path) -> None:
    plain = {"candidate_ratio": 1, "selector": "none", "loss_average": "root"}
    plain |= {"candidate_sampling": "adaptive", "stored_losses": None}
    args = CoLMConfig(output_dir=str(tmp_path), **plain)
    assert name_of_method(args) == "SFT with adaptive draws and square averaging"
    assert [paper.arxiv for paper in papers_of(args)] == ["2410.11820", "2412.05271"]
    # The draws that a selector brings are a part of its method.
    args = CoLMConfig(output_dir=str(tmp_path), selector="balanced_sampling")
    assert papers_of(args) == []


def test_a_selector_of_ones_own_is_called_by_its_name(tmp_path, monkeypatch) -> None:
    name = "mine | `x`\n# forged"
    monkeypatch.setattr(registry, "_SELECTORS", dict(registry._SELECTORS))
    register_selector(name, needs=())(lambda candidates, budget, generator: range(budget))
    args = config(tmp_path, selector=name)
    assert papers_of(args) == []
    lines = describe_training(record_of(args)).splitlines()
    assert not any(line.startswith("# ") for line in lines)


@pytest.mark.parametrize(
    ("options", "said", "unsaid"),
    [
        (
            {"selector": "balanced_sampling"},
            "trained with SFT on mini-batches chosen by balanced_sampling.",
            "nguyen2025",
        ),
        ({}, "trained with CoLM, a method introduced in", "chen2025"),
        ({"candidate_ratio": 1.0}, "trained with SFT.", "nguyen2025"),
        ({"candidate_ratio": 1.0, "subspace_rank": 2}, "chen2025rso", "nguyen2025"),
    ],
)
def test_the_card_that_is_written(options, said, unsaid, tmp_path, tiny_model_folder) -> None:
    data = Dataset.from_list([{"text": "a b", "source": "web"}] * 8)
    args = config(tmp_path / "a|b\n# forged", max_length=16, **options)
    trainer = CoLMSFTTrainer(str(tiny_model_folder), args, train_dataset=data)
    card = write_model_card(trainer, "base\n# forged").read_text("utf-8")
    assert said in card
    assert unsaid not in card
    assert "\n# forged" not in card
    assert "None" not in card
    assert "\n\nCite colm as:\n\n```bibtex\n@software{colm,\n" in card
    assert card.count("```") % 2 == 0


def test_a_card_without_citations_is_given_them() -> None:
    card = citing_software("# Mine\n")
    assert card.startswith(
        "# Mine\n\n## Citations\n\nCite colm as:\n\n```bibtex\n@software{colm,\n"
    )
    assert "author = {{The colm authors}},\n" in card


def card_of(names: list[str], folder: Path) -> str:
    data = Dataset.from_list([{"text": "a", "source": name} for name in names])
    record = record_of(config(folder), data)
    write_record(record, folder)
    return describe_training(record)


def sizes_in_report(folder: Path) -> dict[str, int]:
    state = {"global_step": 1, "max_steps": 1, "log_history": [{"step": 1, "loss": 1.0}]}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return dict(read_runs([folder]).source_sizes)


HOSTILE = [
    "x\n### Framework versions\n\n- TRL: 9.9 ",
    "a | 5 |\n| b",
    "a|b",
    "`code` | 3",
    "<img src=x onerror=alert(1)>",
    "[link](http://example.org)",
    "www.example.org",
    "*bold* _it_ ~~x~~ $x$",
    "\u202egnp.exe",
    "\x1b[2J",
    "a\r\nb",
    "\u2028| y | 7 |",
    "x" * 5000,
    r"C:\data\new",
    r"\| x",
    "=cmd()",
    "数学 и др.",
    "---",
]


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(HOSTILE) | st.text(min_size=1, max_size=8), min_size=1, max_size=6))
def test_a_name_is_one_cell_and_one_source(tmp_path_factory, names: list[str]) -> None:
    names = [f"n{each}" if not each.strip() or each == "nan" else each for each in names]
    folder = tmp_path_factory.mktemp("card")
    text = card_of(names, folder)
    table = text.partition("### Training data\n\n")[2].partition("\n\n")[0].split("\n")
    assert len(table) == 2 + len(set(names))
    for row in table[2:]:
        assert row.isprintable()
        assert row.count("|") == 3
        assert len(row) < 200
    sizes = sizes_in_report(folder)
    assert all(name.isprintable() for name in sizes)
    assert sum(sizes.values()) == len(names) or len(sizes) < len(set(names))


def test_hostile_names_are_told_apart_in_card_and_log(tmp_path) -> None:
    card_of(HOSTILE, tmp_path)
    sizes = sizes_in_report(tmp_path)
    assert len(sizes) == len(HOSTILE)
    metrics = SelectionMetrics()
    metrics.count_step(Counter(dict.fromkeys(HOSTILE, 2)), Counter(dict.fromkeys(HOSTILE, 1)))
    logged = metrics.drain()
    assert all(key.isprintable() and len(key) < 200 for key in logged)
    assert sum(key.startswith("colm/kept/") for key in logged) == len(HOSTILE)
    # What the report puts together is called the same in both.
    assert {shown_name("a|b"), shown_name("`code` | 3"), shown_name("数学 и др.")} <= set(sizes)
    for name in ("a|b", "`code` | 3", "\x1b[2J", "x" * 5000):
        assert f"colm/kept/{shown_name(name)}" in logged
        assert shown_name(name) in sizes


def test_code_holds_no_markup() -> None:
    for text in HOSTILE:
        code = as_code(text)
        assert code.isprintable()
        assert code.count("`") == 2
        assert "|" not in code
