"""Tables: aligned text, escaped HTML, and the best figure set off."""

import dataclasses
import re

from colm.reports import Table, draw_table, kept_table, loss_table, summary_table, training_table


def test_columns_are_aligned() -> None:
    table = Table(["name", "a", "long head"], [["x", "1", "2"], ["longer", "123456", "-"]])
    head, rule, *rows = table.to_text().splitlines()
    assert rule == "------  ------  ---------"
    assert {len(line) for line in (head, rule, *rows)} == {len(rule)}
    assert rows == ["x            1          2", "longer  123456          -"]


def test_details_are_indented_in_text_and_marked_in_html() -> None:
    table = Table(["", "a"], [["all", "3"], ["part", "1"]], indented=[1])
    assert table.to_text().splitlines()[-2:] == ["all     3", "  part  1"]
    assert '<tr><th scope="row">all' in table.to_html()
    assert '<tr class="detail"><th scope="row">part' in table.to_html()


def test_html_is_escaped() -> None:
    page = Table(["<h>", "&"], [["<script>", '"'], ["a", "b"]], strong=[0, None]).to_html()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<b>&quot;</b>" in page


def cells(comparison, name: str) -> list[str]:
    (row,) = [row for row in summary_table(comparison).rows if row[0] == name]
    return list(row[1:])


def test_summary_has_every_measure(comparison) -> None:
    table = summary_table(comparison)
    assert list(table.head) == ["", "untouched", "CoLM", "random"]
    assert cells(comparison, "held-out loss, macro") == ["3.000", "1.250", "1.500"]
    assert cells(comparison, "held-out loss, micro") == ["2.900", "1.200", "1.100"]
    assert cells(comparison, "held-out loss, small sources") == ["3.100", "1.300", "1.600"]
    assert cells(comparison, "accuracy (sources' scorers)") == ["10 %", "40 %", "30 %"]
    assert [c.strip() for c in cells(comparison, "seconds a step")][1:] == ["3.00", "2.00"]
    assert cells(comparison, "selecting")[1:] == ["1.00", "0.00"]


def test_the_best_of_each_row_is_bold(comparison) -> None:
    bold = re.findall(
        r'<th scope="row">([^<]*)</th>(?:<td>[^<]*</td>)*<td><b>([^<]*)</b>',
        summary_table(comparison).to_html(),
    )
    assert dict(bold) == {
        "held-out loss, macro": "1.250",
        "held-out loss, micro": "1.100",
        "held-out loss, small sources": "1.300",
        "accuracy (sources&#x27; scorers)": "40 %",
    }


def test_what_looks_the_same_is_not_set_off(comparison) -> None:
    first, second = comparison.arms
    near = dataclasses.replace(second.scores, macro=1.2504, answers=0.398)
    arms = [first, dataclasses.replace(second, scores=near)]
    strong = summary_table(dataclasses.replace(comparison, arms=arms)).strong
    assert strong[:4] == [None, 2, 1, None]


def test_without_scores_there_is_no_row_for_them(unscored) -> None:
    assert all("accuracy" not in row[0] for row in summary_table(unscored).rows)
    assert not any("accuracy" in head for head in loss_table(unscored).head)


def test_shares_kept_are_of_what_was_drawn(comparison) -> None:
    rows = {row[0]: list(row[1:]) for row in kept_table(comparison).rows}
    assert list(rows) == ["sums", "dates*"]
    assert rows["sums"] == ["900", "40 %", "50 %"]
    assert rows["dates*"] == ["100", "100 %", "50 %"]


def test_draws_are_shares_of_all_and_passes_over_a_source(comparison) -> None:
    table = draw_table(comparison)
    assert list(table.head)[1:4] == ["examples", "of the data", "drawn, CoLM"]
    # 60 and 10 of 70 in six steps.
    sums, dates = (list(row[3:]) for row in table.rows)
    assert sums == ["86 %", "86 %", "0.07", "0.07"]
    assert dates == ["14 %", "14 %", "0.10", "0.10"]
    alone = dataclasses.replace(comparison, arms=comparison.arms[:1], source_sizes={})
    assert list(draw_table(alone).head) == ["source (*small)", "drawn"]


def test_a_run_without_selection_shows_what_it_learned_of_each_source(comparison) -> None:
    plain = dataclasses.replace(
        comparison.arms[0],
        scores=dataclasses.replace(comparison.arms[0].scores, loss_by_source={"stories": 2.5}),
        log_history=[
            {
                "step": step,
                "loss": 1.0,
                "colm/loss/sums": 7.0 - step,
                "colm/label_tokens/sums": 30.0,
                "colm/label_tokens/dates": 10.0,
            }
            for step in range(1, 7)
        ],
    )
    alone = dataclasses.replace(comparison, arms=[plain], before=None)
    table = training_table(alone)
    assert list(table.head) == ["source (*small)", "loss", "label tokens"]
    assert [list(row) for row in table.rows] == [
        ["sums", "3.000", "75 %"],
        ["dates*", "\u2013", "25 %"],
    ]
    # What was held out under a name that nothing was trained on stands last.
    assert [row[0] for row in loss_table(alone).rows] == ["sums", "dates*", "stories"]


def test_losses_and_accuracies_stand_side_by_side(comparison) -> None:
    table = loss_table(comparison)
    assert list(table.rows[1]) == ["dates*", "3.100", "1.300", "1.600", "0 %", "50 %", "20 %"]
    assert len(table.head) == len(table.rows[0])


def test_what_is_not_known_is_a_dash(comparison) -> None:
    assert cells(comparison, "seconds a step")[0] == "\u2013"
