"""Tables in pages written by hand: figures anyone can work out by eye, in their places."""

import doctest
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks.page import guide_plots, measured_pages, stacking_tables, subspace_tables
from benchmarks.page.measured_pages import DOCS, filled
from benchmarks.record import RESULTS
from colm.data.generated import SOURCES

MIB = 2**20
SETTINGS = {"task": "pretrain", "rank": 8, "steps": 20, "batch": 2, "tokens": 4, "layers": 1}
SETTINGS |= {"hidden": 16, "inner_steps": 5, "dtype": "float32", "autocast": False}
SETTINGS |= {"others_rate": 0.01, "data": "texts.jsonl"}
PAGE = "<!-- measured: {} -->\n\n<!-- end -->\n"
STACK = "| What | Works | Memory | Time | What to set |\n|---|---|--:|--:|---|\n"


def write(path, settings, summary, repeats=(), date="2026-01-01T00:00:00+00:00"):
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"date": date, "settings": settings, "summary": summary, "repeats": list(repeats)}
    path.write_text(json.dumps(result | {"machine": {"processor": "a processor"}}))


def write_run(folder, arm, loss, rate=0.1, seed=0, **changed):
    said = SETTINGS | {"arm": arm, "learning_rate": rate, "seed": seed} | changed
    rows = [{"steps": float(s), "seconds": 1.0 * s, "loss": loss + 1 - s / 20} for s in (0, 10, 20)]
    sizes = {"optimizer_bytes": 3 * MIB, "saved_bytes": 5 * MIB, "peak_bytes": 2048 * MIB}
    sizes["peak_bytes"] = said.pop("peak_bytes", sizes["peak_bytes"])
    name = f"{arm}-{rate}-{seed}-{said['rank']}.json"
    write(folder / "subspace" / "pretrain-texts" / name, said, rows[-1] | sizes, rows)


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    for seed in (0, 1):
        write_run(folder, "AdamW", 2.0 + seed, seed=seed)
        write_run(folder, "RSO", 2.2 + 1.1 * seed, seed=seed)
    write_run(folder, "AdamW", 1.9, rate=0.2, seed=1)  # the first seed decides
    write_run(folder, "RSO", 3.0, rate=0.2)
    write_run(folder, "RSO, gaussian", 2.31)
    write_run(folder, "RSO", 2.42, rank=4)
    pace = {"AdamW/over AdamW": 1.0, "RSO/over AdamW": 1.25, "RSO/seconds": 9.0}
    write(folder / "subspace_pace/20260101-000000.json", SETTINGS, pace)
    other = {"AdamW/over AdamW": 1.0, "RSO/over AdamW": 9.0}
    write(folder / "subspace_pace/20260102-000000.json", SETTINGS | {"hidden": 64}, other)
    return folder


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    (folder / "images").mkdir(parents=True)
    places = ("pretrain-texts", "pretrain-texts setting", "pretrain-texts variants", "finetune")
    rows = "| LoRA | yes | – | – | `peft` |\n| AdaLomo | no | – | – | a GPU |\n"  # noqa: RUF001
    places = (*places, "methods generated-from-scratch", "verdict Adafactor", "least memory phi-2")
    places = (*places, "side block standing", "side block table")
    (folder / "memory.md").write_text(STACK + rows + "".join(map(PAGE.format, places)))
    return folder


def test_losses_ratios_and_bytes_are_those_of_the_best_rate_of_the_first_seed(results, docs):
    page = filled(results, docs)["memory.md"]
    row = "| 1.00 | 3.0 | 5.0 | 2,048.0 |"
    assert f"| AdamW | 0.1 | 2 | 2.500 ± 0.707<br>2.000 to 3.000 | 1.000 {row}" in page
    row = row.replace("1.00", "1.25")
    assert f"| RSO | 0.1 | 2 | 2.750 ± 0.778<br>2.200 to 3.300 | 1.100 {row}" in page
    assert "| RSO, gaussian | 0.1 | 1 | 2.310 | 1.050 |" in page
    assert "| RSO, rank 4 | 0.1 | 1 | 2.420 | 1.100 |" in page
    assert "20 steps on 2 blocks of 4 tokens of texts.jsonl" in page
    assert PAGE.format("finetune") in page


def test_a_higher_rank_that_fits_in_the_peak_of_galore_is_in_the_main_table(results, docs):
    write_run(results, "GaLore", 2.1)
    for rank, loss, peak in ((10, 2.06, 2000), (12, 2.04, 2048), (14, 2.02, 2100)):
        write_run(results, "RSO", loss, rank=rank, peak_bytes=peak * MIB)
    page = filled(results, docs)["memory.md"]
    main = page[: page.index("Over the default's")]
    assert "| RSO, rank 12 | 0.1 | 1 | 2.040 | 1.020 |" in main
    assert "RSO, rank 10" not in main
    assert "RSO, rank 14" not in main
    said = "1.050; 1.020 at the rank that fits in GaLore's peak, 12, with 1 seed."
    assert subspace_tables.blocks(results)["verdict subspaces"].endswith(said)


def test_plots_are_drawn_where_all_ways_were_run(results, docs):
    assert not [name for name in filled(results, docs) if name.startswith("images/subspace")]
    for arm in ("GaLore", "LoRA", "LoRA, A frozen"):
        write_run(results, arm, 2.0)
    made = filled(results, docs)
    plots = [name for name in made if name.startswith("images/subspace")]
    names = [f"images/subspace-pretrain-texts-{axis}.svg" for axis in ("steps", "time")]
    assert plots == names
    for name in plots:
        assert ET.fromstring(made[name]).tag.endswith("svg")
        assert "RSO" in made[name]


def test_rows_get_their_cells_and_later_results_count(results, docs):
    whole = f"{stacking_tables.REFERENCE}/total_bytes"
    for day, size in ((1, 100), (2, 500)):
        summary = {whole: 1000 * MIB, "LoRA/total_bytes": size * MIB, "LoRA/over_reference": 0.875}
        date = f"2026010{day}-000000"
        write(results / f"stacking/{date}.json", {}, summary)
    kinds = ("weight", "optimizer", "training", "look", "total")
    # A row of a measured table may have the name of one that was written.
    for name, size in (("LoRA", 8), ("a, b", 3)):
        summary = {f"phi-2/{name}/{kind}_bytes": size * 2**30 for kind in kinds}
        write(results / f"least_memory/{name[0]}.json", {}, summary)
    page = filled(results, docs)["memory.md"]
    assert "| LoRA | yes | 500 (0.50) | 0.88 | `peft` |" in page
    assert "| AdaLomo | no | – | – | a GPU |" in page  # noqa: RUF001
    least, most = (page.index(f"| {name} | {size}") for name, size in (("a, b", 3), ("LoRA", 8)))
    assert least < most
    assert "| LoRA | 8.00 | 8.00 | 8.00 | 8.00 | 8.00 |" in page
    assert "| a, b | 3.00 | 3.00 | 3.00 | 3.00 | 3.00 |" in page


def write_training(folder, arm, losses, rate=0.1, seed=0, selected=False):
    """A run of ``benchmarks methods``: losses after 0, 1 and 2 steps of 10 seconds."""
    said = {"arm": arm, "selected": selected, "learning_rate": rate, "seed": seed, "steps": 2}
    said |= {"from_scratch": True, "r": 2, "n": 4, "data": None, "max_length": 8, "rank": 1}
    said |= {"dtype": "float32", "refresh": 1}
    pace = 10.0 if arm == "AdamW, all weights" else 20.0
    rows = [
        {"steps": step, "cpu_seconds": step * pace, "macro": loss}
        for step, loss in zip((0.0, 1.0, 2.0), losses, strict=True)
    ]
    kinds = ("weight", "gradient", "optimizer", "saved", "total")
    sizes = {f"{kind}_bytes": place * MIB for place, kind in enumerate(kinds)}
    name = f"{arm}-{selected}-{rate}-{seed}.json"
    summary = rows[-1] | sizes | {"step_cpu_seconds": pace}
    write(folder / "methods" / "generated-from-scratch" / name, said, summary, rows)


def test_ways_of_training_stand_beside_the_reference(results, docs):
    for seed in (0, 1):
        write_training(results, "AdamW, all weights", (5.0, 4.0, 2.0 + seed / 10), seed=seed)
        write_training(results, "Adafactor", (5.0, 4.0, 3.0 + seed / 10), seed=seed)
    write_training(results, "Adafactor", (5.0, 4.0, 1.0), rate=0.3)  # of one seed alone
    write_training(results, "CAME", (5.0, 4.0, 2.0))
    page = filled(results, docs)["memory.md"]
    assert "| AdamW, all weights | 0.0 | 1.0 | 2.0 | 3.0 | 1.00 | 0.1 | 2.05 ± 0.07 |" in page
    row = "| Adafactor | 0.0 | 1.0 | 2.0 | 3.0 | 2.00 | 0.1 | 3.05 ± 0.07 | 4.00 ± 0.00 |"
    assert row in page
    assert "| CAME | 0.0 | 1.0 | 2.0 | 3.0 | 2.00 | 0.1 | 2.00 | 4.00 |" in page
    said = (
        "Worse than AdamW on all weights in 2 steps from scratch, 2 seeds: a held-out loss of 3.05"
    )
    assert said in page.replace("\n", " ")


def test_a_side_block_stands_beside_lora_in_time_bytes_and_loss(results, docs):
    said = {"dtype": "float32", "r": 2, "n": 4, "data": None, "max_length": 8, "micro_batch": 2}
    figures = {  # time of a step, MiB, steps, macro
        "LoRA, r by CoLM": (2.0, 80, 6, 1.5),
        "LoRA, n": (4.0, 100, 3, 1.4),
        "side block, r by CoLM": (1.0, 60, 12, 1.8),
    }
    summary, turn, kinds = {}, {}, ("over_reference", "total_bytes", "steps", "macro")
    for arm, (seconds, size, steps, macro) in figures.items():
        values = seconds / 2, size * MIB, steps, macro
        summary |= {f"{arm}/{kind}": value for kind, value in zip(kinds, values, strict=True)}
        summary |= {f"{arm}/processor_seconds": seconds, f"{arm}/micro": 1.0}
        turn[f"{arm}/processor_seconds"] = seconds
    slower = turn | {"side block, r by CoLM/processor_seconds": 1.5}
    path = results / "side_block" / "20260101-000000.json"
    write(path, said | {"steps": 6}, summary, [turn, slower])
    page = filled(results, docs)["memory.md"]
    row = "| side block, r by CoLM | 0.50 | 0.50 to 0.75 | 60 | 12 | 1.800 | 1.000 |"
    assert row in page
    assert "Worse than LoRA in the same time, one seed: a held-out loss of 1.80, not 1.40." in page
    assert "takes 0.50 of the time of LoRA's on r, 0.25 of that on n" in page
    assert "holds 60 MiB at its peak, not 80." in page


def test_the_pages_are_as_the_results_make_them():
    for name, text in filled(RESULTS, DOCS).items():
        # A plot may differ with the version of what draws it.
        current = name.endswith(".svg") or (DOCS / name).read_text(encoding="utf-8") == text
        assert (DOCS / name).is_file(), name
        assert current, f"{name}: run make results"


def test_the_command_writes_what_was_filled(results, docs, monkeypatch, capsys):
    expected = filled(results, docs)
    argv = ["measured_pages", "--results", str(results), "--docs", str(docs)]
    monkeypatch.setattr(sys, "argv", argv)
    measured_pages.main()
    assert "wrote memory.md" in capsys.readouterr().out
    assert {name: Path(docs / name).read_text() for name in expected} == expected
    assert filled(results, docs) == expected


def test_examples_in_docstrings():
    assert doctest.testmod(measured_pages).failed == 0


def test_the_guide_shows_draws_by_the_rule() -> None:
    sizes = {name: each.examples for name, each in SOURCES.items()}
    for sampling in guide_plots.DRAWS:
        draws = guide_plots.draws_of(sampling, sizes)
        assert sum(draws.values()) == pytest.approx(sum(sizes.values()))
        assert all(draws[name] <= 4 * size + 1e-9 for name, size in sizes.items())


@pytest.mark.slow
def test_the_guides_have_their_pictures() -> None:
    made = guide_plots.plots(RESULTS)
    assert "LoRA" in made["guide-memory.svg"]
    assert "coin flip, 48" in made["guide-draws.svg"]
