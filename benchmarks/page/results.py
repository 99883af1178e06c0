"""The papers' tables and figures, drawn from the result files: a page and its plots.

``python -m benchmarks results`` writes ``docs/results.md`` and ``docs/images/results-*.svg``. It
measures nothing: what has no result file is left open, and the page says so. The same result files
give the same bytes. ``--results`` and ``--docs`` name other folders to read and to write.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.page import (
    answer,
    cost_tables,
    equal_time,
    papers,
    quality_tables,
    result_plots,
    same_time_plot,
    selection_tables,
    ssm_tables,
)
from benchmarks.page.paragraphs import INTRODUCTION, Page
from benchmarks.page.quality_tables import OURS
from benchmarks.page.result_files import Mixture, Results, read_results
from benchmarks.record import RESULTS

DOCS = Path(__file__).parents[2] / "docs"
NOT_HERE = "Open: no result file yet."


def main() -> None:
    """Read the results, write the page and its plots."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to read")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder to write to")
    options = parser.parse_args()
    page = make_page(read_results(options.results))
    print(f"wrote {page.write(options.docs)} and {len(page.plots)} plots")


def make_page(results: Results) -> Page:
    """Return the page for what is at hand."""
    page = Page()
    page.add(answer.opening(results), INTRODUCTION)
    add_setting(page, results)
    add_equal_time(page, results)
    add_target(page, results)
    add_main(page, results)
    add_ablations(page, results)
    add_cost(page, results)
    add_time(page, results)
    add_memory(page, results)
    add_variance(page, results)
    add_drift(page, results)
    add_convergence(page, results)
    add_selection(page, results)
    return page


def add_setting(page: Page, results: Results) -> None:
    """What was run, and what is open."""
    page.add("## Runs and what is open")
    page.add(*(quality_tables.describe(mixture) for mixture in results.mixtures))
    said = [line for mixture in results.mixtures for line in quality_tables.what_is_open(mixture)]
    for mixture in results.mixtures:
        if pooled := ssm_tables.pool_sentence(run.result for run in mixture.runs.get("SSM", ())):
            said.append(f"`{mixture.label}`: {pooled}")
    if not results.mixtures:
        said.append("No runs of the papers' experiment yet: what rests on their losses is open.")
    if not results.memory:
        said.append("Memory of a step has not been measured.")
    if results.match is None:
        said.append("How well selections match gradients has not been measured.")
    page.add("\n".join(f"- {line}" for line in said) or "Nothing is open.")
    if results.mixtures:
        page.add("What differs from SSM's runs:", ssm_tables.differences_table(results.mixtures))


def add_equal_time(page: Page, results: Results) -> None:
    """Runs with processor times, each label beside its own control."""
    page.add(
        "## In the same time",
        "What a kind of mini-batch is worth to who waits for it: all arms after the processor time "
        "that ordinary training on n takes, its micro-batches arranged by length, and in the last "
        "columns after as many steps. Where a pace was measured, the time is by it. A *random "
        "twin* keeps as many examples, with the same draws and the same small sources, without a "
        "look. Of so many arms the lowest is so partly by luck.",
    )
    if shown := same_time_plot.shown_mixtures(results.clocked):
        page.plot(
            "same-time",
            "Held-out loss of each way in the same time, a dot for each seed",
            partial(same_time_plot.plot_same_time, shown),
        )
    for mixture in results.clocked:
        equal = equal_time.EqualTime.of(mixture)
        missing = quality_tables.missing_runs(mixture, equal_time.ASKED)
        page.add(
            f"### `{mixture.label}`",
            quality_tables.describe(mixture),
            equal_time.time_sentence(equal),
            equal_time.loss_table(equal),
            " ".join(filter(None, equal_time.sentences(equal))),
            "\n".join(f"- {line}" for line in missing),
        )
    if not results.clocked:
        page.add(NOT_HERE)


def add_target(page: Page, results: Results) -> None:
    """Whether balanced sampling ends below what it is held against."""
    page.add(
        "## The target",
        f"{OURS.capitalize()} at r = n/2 is to end with a lower macro held-out loss than plain "
        "training on n and on 2n at equal steps, and than plain r and both random controls at "
        "equal time, beyond the spread of the seeds.",
    )
    for mixture in results.mixtures:
        page.add(
            f"`{mixture.label}`, after {mixture.steps:g} steps or the time that they take:",
            quality_tables.target_table(mixture),
            quality_tables.target_sentence(mixture),
            quality_tables.ceiling_sentence(mixture),
            cost_tables.pace_doubt(mixture),
            quality_tables.micro_sentence(mixture),
        )
    page.add(
        "What others find where a look has to pay for itself, and where none is taken:",
        papers.EQUAL_COST.show(),
    )
    say_open(page, results)


def add_main(page: Page, results: Results) -> None:
    """SSM's Table 1: the main result, at equal steps and at equal time."""
    page.section("Main result (SSM, Table 1)", papers.MAIN)
    for mixture in results.mixtures:
        page.add(
            f"`{mixture.label}`, after {mixture.steps:g} steps each:",
            quality_tables.steps_table(mixture),
            f"`{mixture.label}`, after the time that {mixture.steps:g} steps of {OURS} take:",
            quality_tables.time_table(mixture) or "Open: no measured pace.",
        )
        if mixture.accuracy:
            page.add(
                f"`{mixture.label}`, right answers in per cent, of the models as their runs ended, "
                "some after more steps than others; behind a set, how many of its questions were "
                "asked:",
                quality_tables.accuracy_table(mixture),
            )
        page.add(" ".join(quality_tables.main_sentences(mixture)))
    say_open(page, results)


def add_ablations(page: Page, results: Results) -> None:
    """SSM's Tables 2 to 4."""
    page.section("Weighted sampling (SSM, Table 2)", papers.WEIGHTED)
    for mixture in results.mixtures:
        page.add(
            f"`{mixture.label}`, after {mixture.steps:g} steps:",
            quality_tables.steps_table(mixture, quality_tables.WEIGHTED),
            " ".join(quality_tables.weighted_sentences(mixture)),
            "Beside SSM's ablation, every gain over plain mini-batches of r:",
            ssm_tables.beside_table(mixture),
            " ".join(ssm_tables.draws_sentences(mixture)),
        )
    say_open(page, results)
    for title, report, option in (
        ("Selection criterion (SSM, Table 3)", papers.CRITERION, "dimension_criterion"),
        ("Sparsity level (SSM, Table 4)", papers.SPARSITY, "kept_dimensions"),
    ):
        page.section(title, report)
        found = [(mixture, quality_tables.varied(mixture, option)) for mixture in results.mixtures]
        for mixture, arms in found:
            if arms:
                page.add(
                    f"`{mixture.label}`, after {mixture.steps:g} steps:",
                    quality_tables.steps_table(mixture, arms),
                    quality_tables.varied_sentence(mixture, arms),
                )
        scored = add_scores(page, results, option)
        if not scored and not any(arms for _, arms in found):
            page.add(f"Open: no run varies `{option}` yet.")


def add_scores(page: Page, results: Results, option: str) -> bool:
    """How well selections match gradients where an option of CoLM is varied, if that is known."""
    match = results.ablations
    arms = selection_tables.ablated(match, option) if match else []
    if match is None or not arms:
        return False
    kept, (least, most) = max(match.settings["r"]), ssm_tables.alike()
    page.add(
        "Not by training: with SSM's one random direction the gradient of an example is a number "
        "times that direction, so whichever dimensions are kept, distances keep their order and "
        "the same examples are selected. By its Algorithm 1, then, the runs of SSM's Tables 3 and "
        f"4, {least} to {most} %, select alike and differ by rounding and chance. With exact "
        "gradients, normalised as CoLM does, they can "
        "differ. How close the gradient of what is kept then comes to that of all candidates, "
        f"squared, over the same for random mini-batches, {len(match.repeats)} batches "
        f"([result](../benchmarks/results/{match.name})):",
        selection_tables.variance_table(match, kept, arms),
        selection_tables.ablation_sentence(match, kept, arms),
    )
    return True


def add_cost(page: Page, results: Results) -> None:
    """CoLM's accuracy against model, batch and memory."""
    page.section("Quality against model, batch and memory (CoLM, Figure 2)", papers.COST)
    memory = cost_tables.memory_of_runs(results.memory)
    for mixture in results.mixtures:
        page.add(
            f"`{mixture.label}`, after {mixture.steps:g} steps, memory and time over plain r's:",
            cost_tables.cost_table(mixture, memory),
        )
        if memory:
            draw = partial(result_plots.plot_cost, mixture, memory)
            page.plot(f"{mixture.label}-loss-memory", "Held-out loss against memory", draw)
    if results.mixtures:
        page.add(
            "The papers have several models, these runs one: of others nothing is said. Memory is "
            "that of a step's own tensors, with all of the mini-batch in one micro-batch, and was "
            "measured apart from the runs. Random choices look at nothing and hold what plain r "
            "does; in micro-batches of r, gradient accumulation takes plain n and 2n down to that."
        )
    say_open(page, results)


def add_time(page: Page, results: Results) -> None:
    """CoLM's times of training."""
    page.section("Time (CoLM, Figure 3a)", papers.TIME)
    for mixture in results.mixtures:
        if mixture.pace is None:
            page.add(f"`{mixture.label}`: open, its arms have not been timed beside each other.")
            continue
        result = mixture.pace.result
        page.add(
            f"`{mixture.label}`, {len(result.repeats)} steps of each, taken in turns, on "
            f"{result.machine.get('accelerator') or result.machine.get('processor', 'unknown')} "
            f"([result](../benchmarks/results/{result.name})):",
            cost_tables.pace_table(mixture),
        )
        draw = partial(result_plots.plot_pace, mixture)
        page.plot(f"{mixture.label}-pace", "Time of a step", draw)
        page.add(" ".join(cost_tables.pace_sentences(mixture.pace)))
        if worth := cost_tables.worth_table(mixture, results.match):
            page.add(
                "What a step is worth: the size of the plain mini-batch whose gradient varies as "
                "little, over r, worked out from the match score "
                "([when it pays](method.md#when-it-pays)). Where worth over time is below 1, plain "
                "steps on r average out more noise in the same time:",
                worth,
            )
    if results.steps:
        page.add(
            "Steps of other selectors, measured apart: time over the ideal, which is a forward of "
            "n without gradients and a step on the r kept, as the paper counts, and over plain "
            "steps.",
            cost_tables.step_table(results.steps),
        )
    elif not results.mixtures:
        page.add(NOT_HERE)


def add_memory(page: Page, results: Results) -> None:
    """CoLM's memory."""
    page.section("Memory (CoLM, Figure 3a)", papers.MEMORY)
    if not results.memory:
        page.add(NOT_HERE)
        return
    page.add(
        "What balanced sampling saves, training on r in place of plain n or 2n, all in one "
        "micro-batch: of a step's own tensors (its own), and of all that lies in memory, weights "
        "and the optimiser's state among it (all).",
        cost_tables.memory_table(results.memory),
        " ".join(cost_tables.memory_sentences(results.memory)),
    )


def add_variance(page: Page, results: Results) -> None:
    """CoLM's variance against random mini-batches."""
    page.section("Variance against random mini-batches (CoLM, Figure 3b)", papers.VARIANCE)
    match = results.match
    if match is None:
        page.add(NOT_HERE)
        return
    page.add(
        "Squared distance of the gradient of what is kept from that of all candidates, over the "
        "same for random mini-batches of the same size: below 1 is better. Errors that are the "
        "same at every step count in it as those that average out do. For the mean over label "
        "tokens the random choice is worked out to first order, so that its own row need not be 1. "
        "Cells are over "
        f"{len(match.repeats)} batches ([result](../benchmarks/results/{match.name}))."
    )
    page.add(*(selection_tables.variance_table(match, kept) for kept in match.settings["r"]))
    page.add("The default, CoLM by exact gradients with small sources whole, is not among them.")
    if "SSM" in selection_tables.arms_matched(match):
        page.add(ssm_tables.pool_sentence([match]))
    draw = partial(result_plots.plot_variance, match)
    page.plot("variance", "Variance over that of random", draw)
    page.add(" ".join(selection_tables.variance_sentences(match)))


def add_drift(page: Page, results: Results) -> None:
    """Whether errors of selections average out over mini-batches."""
    page.section("Errors that add up", papers.DRIFT)
    drift = results.drift
    if drift is None:
        page.add(NOT_HERE)
        return
    page.add(
        "Distance of the mean gradient of what is kept from that of all candidates, both over "
        "label tokens, over the same for random mini-batches: of a single batch, and of the sum of "
        f"the errors of {len(drift.repeats)} batches. Errors that average out leave both alike; "
        "where the same is left out in every batch, the second is the larger "
        f"([result](../benchmarks/results/{drift.name})).",
        selection_tables.drift_table(drift),
    )


def add_convergence(page: Page, results: Results) -> None:
    """CoLM's loss against steps and against time."""
    page.section("Convergence (CoLM, Figure 3c)", papers.CONVERGENCE)
    for mixture in results.mixtures:
        draw = partial(result_plots.plot_loss, mixture, in_time=False)
        page.plot(f"{mixture.label}-loss-steps", "Macro held-out loss against steps", draw)
        said = " ".join(selection_tables.convergence_sentences(mixture))
        page.add(f"`{mixture.label}`: {said}")
    say_open(page, results)
    page.section("Loss against time (CoLM, Figure 5b)", papers.LOSS_TIME)
    for mixture in results.mixtures:
        if mixture.pace is None:
            page.add(f"`{mixture.label}`: open without a measured pace.")
            continue
        draw = partial(result_plots.plot_loss, mixture, in_time=True)
        page.plot(f"{mixture.label}-loss-time", "Macro held-out loss against time", draw)
    say_open(page, results)


def add_selection(page: Page, results: Results) -> None:
    """CoLM's sources and completion lengths of what is selected."""
    page.section("Sources of what is selected (CoLM, Figure 4)", papers.SOURCES)
    add_selected(page, results, "sources", selection_tables.source_table, result_plots.plot_sources)
    page.section("Completion length of what is selected (CoLM, Figure 4b)", papers.LENGTH)
    add_selected(page, results, "length", selection_tables.length_table, result_plots.plot_length)


def add_selected(
    page: Page,
    results: Results,
    name: str,
    make_table: Callable[[Mixture], str],
    plot: Callable[[Mixture], str],
) -> None:
    """A table and a plot of each mixture whose runs log what was kept."""
    for mixture in results.mixtures:
        if made := make_table(mixture):
            page.plot(f"{mixture.label}-{name}", f"Selected, by {name}", partial(plot, mixture))
            said = selection_tables.length_sentence(mixture) if name == "length" else ""
            page.add(f"`{mixture.label}`:", made, said)
        else:
            page.add(f"`{mixture.label}`: open, no run logs what was kept.")
    say_open(page, results)


def say_open(page: Page, results: Results) -> None:
    """Say so where there are no runs at all."""
    if not results.mixtures:
        page.add(NOT_HERE)
