"""The page of results: figures anyone can work out by eye, and nothing said that is not there."""

import ast
import doctest
import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks.page import equal_time, results, ssm_tables, standings
from benchmarks.page.quality_tables import ARMS
from benchmarks.page.result_files import Run, read_results, slug
from benchmarks.page.standings import ABSENT, Standing

ROOT = Path(__file__).parents[2]
SLOPES = {
    "balanced sampling": 0.010,
    "plain r": 0.004,
    "plain n": 0.006,
    "plain 2n": 0.007,
    "small sources, random": 0.005,
    "CoLM": 0.005,
}
PACES = {"balanced sampling": 1.5, "plain r": 1.0, "plain n": 1.9, "plain 2n": 3.8}
PACES |= {"small sources, random": 1.05, "CoLM": 1.2}
SHARED = {"data": "mixed.jsonl", "model": None, "n": 32, "r": 16, "micro_batch": 8}
SHARED |= {"max_length": 512, "dtype": "bfloat16", "learning_rate": 4e-4, "warmup_steps": 4}
SHARED |= {"steps": 40, "measure_every": 20, "held_out": 12}
LOG = {"colm/kept": 16.0, "colm/candidates": 32.0, "colm/label_token_share": 0.75}
LOG |= {"colm/kept/few": 4.0, "colm/kept/many": 12.0}
LOG |= {"colm/candidates/few": 4.0, "colm/candidates/many": 28.0}


def write(path, settings, repeats, summary=None, date="2026-01-01T00:00:00+00:00"):
    """A result file as `benchmarks.record` writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"date": date, "commit": "abc", "machine": {"processor": "a processor"}}
    result |= {"settings": settings, "repeats": repeats, "summary": summary or {}}
    path.write_text(json.dumps(result))


def write_run(folder, arm, seed, slope, *, last=40, label="mixed", pace=None, **changed):
    """Losses fall on a line, a hundredth higher for each seed; so lines between them are exact.

    With a pace, in seconds of a processor for a step, rows have their time.
    """
    options, log = changed.pop("options", None), changed.pop("log", LOG)
    repeats = []
    for steps in range(0, last + 1, 20):
        loss = 2.0 - slope * steps + 0.01 * seed
        repeats.append({"steps": float(steps), "macro": loss, "micro": loss / 2, "small": 2 * loss})
        if pace is not None:
            repeats[-1]["cpu_seconds"] = pace * steps
    settings = SHARED | changed | {"arm": arm, "seed": seed, "options": options or {}}
    settings |= {"sources": {"many": 90, "few": 10}, "small_sources": ["few"]}
    settings |= {"log": [{"loss": 1.0, "step": step, **log} for step in (1, 2)]}
    write(folder / "quality" / label / f"{slug(arm)}-seed{seed}.json", settings, repeats)


def write_pace(folder, name="pace/1.json", paces=PACES, **changed):
    turns = [{f"{arm}/seconds": 2 * pace for arm, pace in paces.items()}] * 2
    summary = {f"{arm}/seconds": 2 * pace for arm, pace in paces.items()}
    summary |= {f"{arm}_over_plain_r": pace for arm, pace in paces.items()}
    write(folder / name, SHARED | {"turns": 2} | changed, turns, summary)


def write_match(folder):
    repeats = [
        {f"{arm}/16/{kind}": score for kind in ("raw", "tokens_raw") for arm, score in row.items()}
        for row in (
            {"balanced sampling": 0.5, "CoLM as published": 1.2},
            {"balanced sampling": 0.7, "CoLM as published": 1.4},
        )
    ]
    write(folder / "match/1.json", {"n": 32, "r": [16]}, repeats)


def write_memory(folder, name="memory/1.json", options=("--dtype", "bfloat16"), ours=100.0):
    ways = {"colm": ours, "plain_r": 100.0, "plain_n": 200.0, "plain_2n": 400.0}
    summary = {f"{way}_alive_bytes": value for way, value in ways.items()}
    summary |= {"weight_bytes": 50.0, "gradient_bytes": 20.0, "optimizer_bytes": 30.0}
    write(folder / name, {"tokens": 64, "options": list(options)}, [], summary)


@pytest.fixture
def folder(tmp_path):
    """Three seeds of some arms, timed; memory and match scores."""
    for arm, slope in SLOPES.items():
        cheap = arm in ("plain r", "small sources, random")
        for seed in (0, 1, 2):
            options = {"preset": "colm"} if arm == "CoLM" else {}
            write_run(tmp_path, arm, seed, slope, last=80 if cheap else 40, options=options)
    write_pace(tmp_path)
    write_match(tmp_path)
    write_memory(tmp_path)
    return tmp_path


#: Slope, seconds of a step, and steps of runs with processor times: plain n takes 80 s in all.
CLOCKED = {
    "plain n": (0.010, 2.0, 40),
    "plain 2n": (0.012, 4.0, 40),
    "plain r": (0.004, 1.0, 80),
    "UniMax, all n": (0.014, 2.0, 40),
    "adaptive, all n": (0.016, 2.0, 40),
    "UniMax, random": (0.007, 1.0, 80),
    "balanced sampling": (0.011, 1.6, 60),
}
LABEL = "generated-wrong-from-scratch"
CALLED = f"[40 % wrong answers](#{LABEL})"


def write_clocked(folder, arms=CLOCKED, label=LABEL, seeds=(0, 1, 2)):
    for arm, (slope, pace, last) in arms.items():
        for seed in seeds:
            made = {"from_scratch": True, "regime": "wrong"}
            write_run(folder, arm, seed, slope, last=last, label=label, pace=pace, **made)


def page_of(folder):
    return results.make_page(read_results(folder)).text()


def section(page, title):
    return page.split(f"## {title}", 1)[1].split("\n## ")[0]


def test_means_deviations_and_ranges_at_equal_steps(folder):
    main = section(page_of(folder), "Main result")
    loss = "1.610 ± 0.010<br>1.600 to 1.620"
    micro = "0.805 ± 0.005<br>0.800 to 0.810"
    small = "3.220 ± 0.020<br>3.200 to 3.240"
    assert f"| balanced sampling | 3 | {loss} | {micro} | {small} |" in main
    assert "| plain n | 3 | 1.770 ± 0.010<br>1.760 to 1.780 |" in main


def test_at_equal_time_losses_lie_on_the_line_between_measurements(folder):
    main = section(page_of(folder), "Main result")
    assert "| balanced sampling (40.0 steps) | 3 | 1.610 ±" in main
    # 40 steps of 1.5 are 60 of plain r: 2 - 60 * 0.004, and a hundredth for the seeds.
    assert "| plain r (60.0 steps) | 3 | 1.770 ±" in main
    # 60 / 1.9 = 31.6 steps: 2 - 31.58 * 0.006, and a hundredth.
    assert "| plain n (31.6 steps) | 3 | 1.821 ±" in main
    # 60 / 1.2 = 50 steps, and 40 were run.
    assert "| CoLM (40.0 steps, 80 % of the time) | 3 | 1.810 ±" in main


def test_ablations_are_told_apart_batch_by_batch(folder):
    """The range of the first is wide, but others are above or level with it in each batch."""
    first = {"CoLM, exact gradients": 1.0, "CoLM, exact, dimensions by weight": 1.2}
    second = {"CoLM, exact gradients": 2.0, "CoLM, exact, dimensions by weight": 2.1}
    names = ("CoLM, exact, dimensions by random", "CoLM, exact, 16 dimensions")
    repeats = [
        {
            f"{arm}/{kept}/{kind}": score
            for kept in (8, 16)
            for kind in ("raw", "tokens_raw")
            for arm, score in (row | dict(zip(names, level, strict=True))).items()
        }
        for row, level in ((first, (1.1, 0.9)), (second, (1.9, 1.8)))
    ]
    write(folder / "match/2.json", {"n": 32, "r": [8, 16], "ablations": True}, repeats)
    page = page_of(folder)
    criterion, sparsity = section(page, "Selection criterion"), section(page, "Sparsity level")
    assert "Open" not in criterion + sparsity
    assert "| CoLM, exact, dimensions by weight, small sources not kept | 2.92 ±" in criterion
    assert "*CoLM, exact gradients, small sources not kept*: *CoLM, exact, dimensions" in criterion
    assert "16 dimensions" not in criterion
    assert "| CoLM, exact, 16 dimensions, small sources not kept | 2.03 ±" in sparsity
    assert "dimensions by" not in sparsity


def test_drift_is_that_of_the_last_batch(folder):
    assert "Open" in section(page_of(folder), "Errors that add up")
    kinds = [(kind, what) for kind in ("raw", "adam") for what in ("score", "drift")]
    repeats = [
        {"batches": float(batch)}
        | {f"longest/16/{kind}/{what}": batch + at for at, (kind, what) in enumerate(kinds)}
        for batch in (1, 2)
    ]
    write(folder / "drift/1.json", {"n": 32, "r": [16]}, repeats)
    assert "| longest | 2.00 | 3.00 | 4.00 | 5.00 |" in section(page_of(folder), "Errors that add")


def test_what_a_step_is_worth_beside_its_time(folder):
    """Scores of 0.5 and 0.7 of 16 of 32: 1 / (1/2 + 0.37/2) plain r, in 1.25 of its time."""
    assert "What a step is worth" in section(page_of(folder), "Time")
    write_pace(folder, paces=PACES | {"balanced sampling, uniform draws": 1.25})
    time = section(page_of(folder), "Time")
    assert "| plain n | 2.00 | 1.90 | 1.05 |" in time
    assert "| balanced sampling, uniform draws | 1.46 | 1.25 | 1.17 |" in time
    (folder / "match/1.json").unlink()
    assert "What a step is worth" not in section(page_of(folder), "Time")


def test_a_measure_is_interpolated_and_never_continued(folder):
    (mixture,) = read_results(folder).mixtures
    run = mixture.runs["plain r"][0]
    assert isinstance(run, Run)
    assert run.at(30, "macro") == pytest.approx(2 - 30 * 0.004)
    assert run.at(80, "macro") == pytest.approx(2 - 80 * 0.004)
    assert run.at(81, "macro") is None
    assert run.at(30, "no such measure") is None


def test_runs_are_compared_at_the_steps_that_all_of_them_reached(folder):
    (mixture,) = read_results(folder).mixtures
    assert mixture.steps == 40
    write_run(folder, "CoLM", 2, SLOPES["CoLM"], last=20)
    (mixture,) = read_results(folder).mixtures
    assert mixture.steps == 20
    assert set(mixture.at_steps("CoLM", "macro")) == set(mixture.at_steps("plain n", "macro"))


def test_the_target_is_said_to_be_met_only_beyond_the_spread(folder):
    target = section(page_of(folder), "The target")
    assert "| plain 2n, equal steps | lower | 1.610 ± 0.010<br>1.600 to 1.620 |" in target
    assert target.count("| lower |") == 4
    assert "4 of 5 comparisons hold beyond the spread. Open: *weighted sampling, random*." in target
    for seed in (0, 1, 2):
        write_run(folder, "weighted sampling, random", seed, 0.004, last=80)
    write_pace(folder, paces=PACES | {"weighted sampling, random": 1.0})
    target = section(page_of(folder), "The target")
    assert "the target is met: all 5 comparisons hold" in target
    for seed in (0, 1, 2):
        write_run(folder, "plain 2n", seed, 0.0101)
    target = section(page_of(folder), "The target")
    assert (
        "The target is not met: balanced sampling is higher in every seed than *plain 2n*."
        in target
    )
    assert "| level |" not in target
    assert "| higher in every seed |" in target


def test_the_ceiling_says_what_a_coreset_without_error_would_reach(folder):
    assert "How far could any" not in page_of(folder)
    paces = PACES | {"weighted sampling, random": 1.0}
    for seed in (0, 1, 2):
        # At equal time, 60 steps: 2 - 60 * 0.012, and a hundredth.
        write_run(folder, "weighted sampling, random", seed, 0.012, last=80)
        write_run(folder, "UniMax, all n", seed, 0.013)
    write_pace(folder, "pace/2.json", paces)
    path = folder / "pace/2.json"
    path.write_text(path.read_text().replace("2026-01-01", "2026-01-02"))
    target = section(page_of(folder), "The target")
    assert "a macro held-out loss of 1.490 ± 0.010, 1.480 to 1.500." in target
    assert "of balanced sampling is on average 0.120 above that of such training" in target
    assert "Not even such training would be lower than *weighted sampling, random* at eq" in target


def test_doubts_of_the_pace_carry_over_to_equal_time(folder):
    """Plain r takes 1 and 3 s, balanced sampling 2 and 4: off by a half and a third of the mean."""
    assert "against *plain r*, 60.0 to 60.0 steps of it" in section(page_of(folder), "The target")
    turns = [
        {"plain r/seconds": 1.0, "balanced sampling/seconds": 2.0},
        {"plain r/seconds": 3.0, "balanced sampling/seconds": 4.0},
    ]
    summary = {"plain r/seconds": 2.0, "balanced sampling/seconds": 3.0}
    summary |= {"plain r_over_plain_r": 1.0, "balanced sampling_over_plain_r": 1.5}
    write(folder / "pace/1.json", SHARED, turns, summary)
    # 60 steps, less 120 times the root of 1/4 + 1/9 at least 0; no more than the 80 that were run.
    target = section(page_of(folder), "The target")
    assert "is lower against *plain r*, 0.0 to 80.0 steps of it." in target


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [
        ({0: 1.0, 1: 1.1}, {0: 1.2, 1: 1.3}, "lower"),
        ({0: 1.2, 1: 1.3}, {0: 1.0, 1: 1.1}, "higher"),
        ({0: 1.0, 1: 1.2}, {0: 1.1, 1: 1.3}, "lower in every seed"),
        ({0: 1.0, 1: 1.3}, {0: 1.1, 1: 1.2}, "level"),
        ({0: 1.0, 1: 1.1}, {0: 1.2, 2: 1.3}, "one seed"),
        ({0: 1.0}, {1: 1.2}, "open"),
    ],
)
def test_standings_go_by_the_seeds_that_both_have(ours, theirs, word):
    standing = Standing.of(ours, theirs)
    assert standing.word == word
    assert ("open" in standing.say("A", "B")) == (word == "open")


def test_what_is_missing_is_said(folder):
    opening = section(page_of(folder), "Runs and what is open")
    missing = [arm for arm in ARMS if arm not in SLOPES]
    assert f"`mixed`: not run yet: {'; '.join(missing)}." in opening
    assert "accuracy on questions has not been measured" in opening
    (folder / "quality" / "mixed" / "plain-n-seed2.json").unlink()
    assert "fewer than 3 seeds so far: plain n (2)." in page_of(folder)
    (folder / "pace/1.json").unlink()
    page = page_of(folder)
    assert "without a measured pace" in section(page, "Runs and what is open")
    assert "Open: no measured pace." in section(page, "Main result")
    assert "Open: *plain r*, *weighted sampling, random* and *small sources, random*" in page


def test_without_results_everything_is_open(tmp_path):
    page = page_of(tmp_path)
    sections = page.split("\n## ")[2:]
    assert len(sections) == 15
    assert all("Open:" in part for part in sections)
    # Deviations are the papers' alone.
    assert all("±" not in part.partition("Measured here:")[2] for part in sections)
    assert "±" not in section(page, "The target")


def test_a_pace_of_other_work_is_not_taken(folder):
    write_pace(folder, "pace/2.json", PACES | {"plain r": 9.0}, n=64)
    (mixture,) = read_results(folder).mixtures
    assert mixture.pace.ratios["plain r"] == 1.0


def test_sentences_are_chosen_by_the_figures(folder):
    main = section(page_of(folder), "Main result")
    assert "above that of plain training on 2n examples, beyond the spread" in main
    assert "What differs here: a much smaller model, 40 steps" in main
    assert "no gain from CoLM's medoids shows here" in main
    for seed in (0, 1, 2):
        write_run(folder, "CoLM", seed, 0.012, options={"preset": "colm"})
    main = section(page_of(folder), "Main result")
    assert "below that of plain training on 2n examples, beyond the spread" in main
    assert "That is what the paper reports of mini-batches four times as large." in main
    assert "What differs" not in main
    assert "CoLM's medoids" not in main


def test_variance_is_the_mean_of_squared_scores(folder):
    part = section(page_of(folder), "Variance")
    ours = "0.37 ± 0.17<br>0.25 to 0.49"  # (0.25 + 0.49) / 2
    theirs = "1.70 ± 0.37<br>1.44 to 1.96"
    assert f"| balanced sampling | {ours} | {ours} |" in part
    assert f"| CoLM as published | {theirs} | {theirs} |" in part
    assert "The paper reports less variance for CoLM." in part


def test_memory_saved_with_and_without_what_is_held(folder):
    part = section(page_of(folder), "Memory")
    # 100 of 200 and of 400; with 100 held, 200 of 300 and of 500.
    assert "| 50 % | 33 % | 75 % | 60 % |" in part
    assert "saves 33 % with LoRA: more than the paper's 20 %" in part
    # Training all weights is no part of the papers, and of the comparison with them.
    write_memory(folder, "memory/2.json", ["--use_peft", "false"], ours=199.0)
    part = section(page_of(folder), "Memory")
    assert "all weights trained" in part
    assert "saves 33 % with LoRA: more than the paper's 20 %" in part


def test_speed_beside_the_papers(folder):
    part = section(page_of(folder), "Time")
    assert (
        "CoLM: a step is 1.58 times as fast as one of plain n, more than the paper's 1.3." in part
    )
    assert "| plain 2n | 3.80 | 3.80 to 3.80 | 7.60 |" in part


def test_convergence_says_when_a_loss_is_reached(folder):
    part = section(page_of(folder), "Convergence")
    # Plain n ends at 2 - 0.24; balanced sampling is there after 24 steps.
    assert "The mean macro loss that plain n has after 40 steps (1.770) is reached" in part
    assert "by *balanced sampling* after 24.0 and by *CoLM* nowhere in its run." in part


def test_sources_and_lengths_of_what_is_kept(folder):
    page = page_of(folder)
    drawn, kept = (f"{share} ± 0.0<br>{share} to {share}" for share in (12.5, 25.0))
    assert f"| CoLM | {drawn} | {kept} |" in section(page, "Sources")
    part = section(page, "Completion length")
    assert "| CoLM | 1.50 ± 0.00<br>1.50 to 1.50 |" in part
    assert "What CoLM keeps is longer than what it is offered (1.50)." in part


def test_runs_that_vary_an_option_fill_their_tables(folder):
    assert "Open: no run varies `kept_dimensions` yet." in page_of(folder)
    options = {"preset": "colm", "kept_dimensions": 64}
    for seed in (0, 1, 2):
        write_run(folder, "CoLM, 64 dimensions", seed, 0.005, options=options)
    part = section(page_of(folder), "Sparsity level")
    assert "| CoLM | 3 | 1.810 ±" in part
    assert "| CoLM, 64 dimensions | 3 | 1.810 ±" in part
    assert "None differs from CoLM beyond the spread" in part


def test_ssms_tables_are_what_their_averages_say():
    """Each mean over sets is that of the row's cells, to the rounding of the paper.

    Not so one of the paper's own, which the page names.
    """
    for row in (*ssm_tables.TABLE_1, *ssm_tables.TABLE_2):
        cells = [None if cell == ABSENT else ssm_tables.accuracy(cell) for cell in row[2:]]
        *sets, everything = cells
        known = [(sets[:4], sets[3]), (sets[4:], sets[7])]
        for (*three, _), mean in known:
            if None not in three and (row[:2], mean) != (("SSM", "2K"), 52.4):
                assert mean == pytest.approx(sum(three) / 3, abs=0.11)
        assert everything == pytest.approx((sets[3] + sets[7]) / 2, abs=0.11)
    assert ssm_tables.alike() == (53.1, 54.0)


def test_ssms_gains_stand_beside_those_measured(folder):
    weighted = section(page_of(folder), "Weighted sampling")
    assert (
        "Of the 3.9 points that SSM gains over 64 at random, weighted sampling is 2.5" in weighted
    )
    assert f"| plain r | 50.1 ± 0.2 | {ABSENT} | 1.850 ±" in weighted
    assert "| plain n | 52.6 ± 0.6 | +2.5 | 1.770 ± 0.010<br>1.760 to 1.780 | +0.080 |" in weighted
    assert f"| SSM | 54.0 ± 0.2 | +3.9 | {ABSENT} | {ABSENT} |" in weighted
    assert "a random choice from" not in weighted
    for seed in (0, 1, 2):
        write_run(folder, "SSM", seed, 0.006)
        write_run(folder, "weighted sampling, random", seed, 0.008)
    weighted = section(page_of(folder), "Weighted sampling")
    # 40 steps of 0.006 and of 0.008, less those of 0.004.
    assert "SSM gains 0.080 over plain r, and a random choice from its draws 0.160: all" in weighted
    assert f"| weighted sampling, random | {ABSENT} | {ABSENT} | 1.690 ±" in weighted


def test_runs_of_ssm_from_before_its_pool_are_named(folder):
    opening = "Runs and what is open"
    assert "source by source" not in section(page_of(folder), opening)
    write_run(folder, "SSM", 0, 0.006)
    assert "`mixed`: SSM was measured with medoids source by source" in page_of(folder)
    path = folder / "quality" / "mixed" / "ssm-seed0.json"
    path.write_text(path.read_text().replace("2026-01-01", "2026-12-02"))
    assert "source by source" not in section(page_of(folder), opening)


def test_the_setting_stands_beside_ssms(folder):
    opening = section(page_of(folder), "Runs and what is open")
    assert "| Kept of drawn | 64 of 128 | 16 of 32 |" in opening
    assert (
        "| Data | MathInstruct: 260,000 examples, 13 sources | 100 examples, 2 sources |" in opening
    )


def test_accuracy_where_it_was_measured(folder):
    for seed, right in enumerate((0.1, 0.2, 0.3)):
        for arm in ("CoLM", "plain 2n"):
            path = folder / "accuracy" / "mixed" / f"{slug(arm)}-seed{seed}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"sets": {"sums": {"accuracy": right, "questions": 7}}}))
    page = page_of(folder)
    main = section(page, "Main result")
    assert "| Mini-batches | Seeds | Steps | sums (7) |" in main
    assert "| CoLM | 3 | 40 | 20.0 ± 10.0<br>10.0 to 30.0 |" in main
    assert "accuracy on questions has not been measured" not in page


def beginning(page):
    """The first ten lines after the title."""
    return page.split("# Results\n", 1)[1].split("\n")[:10]


def line_on(page, words):
    (line,) = (line for line in beginning(page) if words in line)
    return line


def test_equal_processor_time_is_that_of_plain_n(tmp_path):
    write_clocked(tmp_path)
    timed = section(page_of(tmp_path), "In the same time")
    assert f"### `{LABEL}`" in timed
    assert "from scratch" in timed
    assert "whole run of *plain n*: 80 s" in timed
    # 80 s are 40 steps at 2 s: 2 - 40 * 0.014, and a hundredth for the seeds.
    loss = "1.450 ± 0.010 | 0.725 ± 0.005 | 2.900 ± 0.020"
    row = f"| UniMax, all n (40 steps) | 3 | {loss} | -0.160, lower | {ABSENT} | {loss} |"
    assert row in timed
    # 80 s are 20 steps of plain 2n, a measurement of its own, and 50 of balanced sampling, whose
    # random twin has 80 by then; at equal steps both are read after 40.
    assert "| plain 2n (20 steps) | 3 | 1.770 ±" in timed
    ours = "| balanced sampling (50 steps) | 3 | 1.460 ± 0.010 | 0.730 ± 0.005 | 2.920 ± 0.020 "
    after_40 = "1.570 ± 0.010 | 0.785 ± 0.005 | 3.140 ± 0.020 |"
    assert (
        f"{ours}| -0.150, lower | +0.010, higher in every seed (UniMax, random) | {after_40}"
        in timed
    )
    rows = [line.split(" (")[0] for line in timed.splitlines() if " steps) | " in line]
    assert rows[:2] == ["| adaptive, all n", "| UniMax, random"]
    assert rows[-1] == "| plain 2n"


def test_a_pace_of_the_same_regime_goes_before_the_time_of_a_busy_processor(tmp_path):
    write_clocked(tmp_path)
    paces = {"plain n/seconds": 0.2, "UniMax, all n/seconds": 0.25}
    made = {"from_scratch": True, "regime": "redundant"}
    write(tmp_path / "pace/1.json", SHARED | made, [paces], paces)
    assert " s by measured pace" not in section(page_of(tmp_path), "In the same time")
    write(tmp_path / "pace/2.json", SHARED | made | {"regime": "wrong"}, [paces], paces)
    assert "8 s by measured pace" in section(page_of(tmp_path), "In the same time")


def test_on_an_accelerator_time_is_by_measured_pace(tmp_path):
    """Runs there share the device, and the time of the processor says nothing of it."""
    write_clocked(tmp_path)
    for path in (tmp_path / "quality" / LABEL).iterdir():
        run = json.loads(path.read_text())
        run["machine"]["accelerator"] = "a GPU"
        path.write_text(json.dumps(run))
    assert "no measured pace" in section(page_of(tmp_path), "In the same time")
    # Of another machine: its steps are other work.
    paces = {"plain n/seconds": 0.2, "UniMax, all n/seconds": 0.25}
    made = {"from_scratch": True, "regime": "wrong"}
    write(tmp_path / "pace/1.json", SHARED | made, [paces], paces)
    assert "no measured pace" in section(page_of(tmp_path), "In the same time")
    pace = json.loads((tmp_path / "pace/1.json").read_text())
    pace["machine"]["accelerator"] = "a GPU"
    (tmp_path / "pace/1.json").write_text(json.dumps(pace))
    timed = section(page_of(tmp_path), "In the same time")
    assert "whole run of *plain n*: 8 s by measured pace" in timed
    # 8 s are 32 steps of 0.25 s: 2 - 32 * 0.014, and a hundredth.
    assert "| UniMax, all n (32 steps) | 3 | 1.562 ±" in timed
    assert f"| plain r | 3 | {ABSENT} |" in timed


def test_where_a_run_ends_before_plain_n_all_are_read_at_the_time_it_has(tmp_path):
    write_clocked(tmp_path, CLOCKED | {"balanced sampling": (0.011, 1.6, 40)})
    timed = section(page_of(tmp_path), "In the same time")
    assert "80 % of that of the whole run of *plain n*, 64 s" in timed
    assert "*balanced sampling* ends first" in timed
    assert "| plain n (32 steps) | 3 | 1.690 ±" in timed
    # All n with the same draws, in the 40 steps that balanced sampling has.
    assert "a macro held-out loss of 1.450 ± 0.010, lower than *adaptive, all n*." in timed


def test_the_page_begins_with_what_is_better_in_the_same_time(tmp_path):
    write_clocked(tmp_path)
    page = page_of(tmp_path)
    best = line_on(page, "The best way")
    assert (
        f"on {CALLED} *adaptive, all n* of 7 ways (1.370; plain n 1.610; lower in every seed)"
        in best
    )
    below = f"below plain n and plain 2n in every seed on {CALLED}"
    for arm in ("UniMax, all n", "adaptive, all n"):
        assert f"(*{arm}*): {below}" in line_on(page, f"(*{arm}*)")
    assert f"below even draws beyond the spread on {CALLED}" in line_on(page, "(*adaptive, all n*)")
    look = line_on(page, "Looking at candidates")
    assert "none is lower in every seed (*balanced sampling*, the nearest, is 0.090 above)" in look
    assert f"on {CALLED} are named" in line_on(page, "missing")
    # Balanced sampling has 50 steps in the time, more than were run with all n.
    assert "Were the selection" not in page


def test_sentences_of_the_beginning_turn_with_the_figures(tmp_path):
    turned = {"plain n": (0.018, 2.0, 40), "balanced sampling": (0.022, 2.0, 40)}
    write_clocked(tmp_path, CLOCKED | turned)
    write_clocked(tmp_path, label="other")
    page = page_of(tmp_path)
    best = line_on(page, "The best way")
    assert (
        f"on {CALLED} *balanced sampling* of 7 ways (1.130; plain n 1.290; lower in every seed)"
        in best
    )
    assert "on `other` *adaptive, all n* of 7 ways" in best
    even = line_on(page, "(*UniMax, all n*)")
    assert "below plain n and plain 2n in every seed on `other`" in even
    assert f"not below plain n and plain 2n in every seed on {CALLED}" in even
    look = line_on(page, "Looking at candidates")
    assert f"on {CALLED} *balanced sampling* is 0.160 lower, in every seed" in look
    (mine,) = (part for part in page.split("\n### ") if part.startswith(f"`{LABEL}`"))
    assert "a look pays here" in mine
    assert "1.450 ± 0.010, higher than *plain n*." in mine
    assert "So no look" not in mine
    level = {"balanced sampling": (0.011, 2.0, 40)}
    write_clocked(tmp_path, CLOCKED | level)
    page = page_of(tmp_path)
    assert "higher than *adaptive, all n*. So no look" in page
    assert "without error would not be either" in line_on(page, "Looking at candidates")


def test_without_processor_times_the_beginning_says_open(folder, tmp_path):
    page = page_of(folder)
    for words in ("The best way", "equally often", "still falls", "Looking at"):
        assert "open" in line_on(page, words)
    assert page.count("as drawn;") == 1
    assert "`mixed` was measured before" in line_on(page, "as drawn")
    # Runs with processor times are no part of the papers' experiment.
    write_clocked(folder)
    main = section(page_of(folder), "Main result")
    assert "`mixed`" in main
    assert LABEL not in main


def test_one_seed_and_missing_arms_decide_nothing(tmp_path):
    write_clocked(tmp_path, seeds=(0,))
    page = page_of(tmp_path)
    assert "one seed tells nothing apart" in line_on(page, "The best way")
    assert f"open on {CALLED}" in line_on(page, "(*UniMax, all n*)")
    timed = section(page, "In the same time")
    assert "fewer than 3 seeds so far: balanced sampling (1)" in timed
    assert f"`{LABEL}`: not run yet: temperature, all n; plain n, hard samples" in timed
    for path in (tmp_path / "quality" / LABEL).glob("plain-n-*"):
        path.unlink()
    page = page_of(tmp_path)
    assert "Open at equal time: there is no run of *plain n*" in page
    assert f"on {CALLED} open" in line_on(page, "The best way")


def test_an_arm_without_every_seed_of_the_control_is_not_the_best(tmp_path):
    write_clocked(tmp_path)
    (tmp_path / "quality" / LABEL / "adaptive-all-n-seed2.json").unlink()
    page = page_of(tmp_path)
    assert "*UniMax, random* of 6 ways" in line_on(page, "The best way")
    assert "adaptive, all n (2)" in section(page, "In the same time")


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes_and_no_old_plot_stays(folder, monkeypatch, capsys):
    written = []
    for name in ("one", "other"):
        docs = folder / name
        (docs / "images").mkdir(parents=True)
        (docs / "images" / "results-old.svg").touch()
        (docs / "images" / "demo.png").touch()
        monkeypatch.setattr(sys, "argv", ["results", "--results", str(folder), "--docs", str(docs)])
        results.main()
        files = sorted(path for path in docs.rglob("*") if path.is_file())
        written.append({str(path.relative_to(docs)): path.read_bytes() for path in files})
    assert "wrote" in capsys.readouterr().out
    one, other = written
    assert one == other
    assert "images/results-old.svg" not in one
    assert "images/demo.png" in one
    page = one["results.md"].decode()
    plots = [name for name in one if name.endswith(".svg")]
    assert len(plots) == 7
    for name in plots:
        assert f"]({name})" in page
        assert ET.fromstring(one[name]).tag.endswith("svg")
        assert len(one[name]) < 60_000


def test_arms_and_file_names_are_those_of_the_quality_benchmark():
    """Read, not imported: that takes as long as all else here."""
    code = (ROOT / "benchmarks/measure/quality.py").read_text()
    nodes = {
        getattr(n, "name", ast.unparse(getattr(n, "targets", [n])[0])): n
        for n in ast.parse(code).body
    }
    there = [key.value for key in nodes["ARMS"].value.keys]
    assert set(ARMS) | set(equal_time.ASKED) <= set(there)
    assert set(equal_time.RANDOM_TWINS) | set(equal_time.RANDOM_TWINS.values()) <= set(there)
    namespace = {}
    exec(ast.unparse(nodes["slug"]), namespace)
    assert [slug(arm) for arm in there] == [namespace["slug"](arm) for arm in there]


def test_examples_in_docstrings():
    assert doctest.testmod(standings).failed == doctest.testmod(ssm_tables).failed == 0
