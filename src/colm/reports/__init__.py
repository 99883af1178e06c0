"""One self-contained page of runs, and the tables and plots it is made of."""

from colm.reports.arm import Arm, Scores
from colm.reports.comparison import Comparison, Findings
from colm.reports.page import is_report, write_page, write_report
from colm.reports.runs import join_comparisons, read_many, read_runs
from colm.reports.source_tables import draw_table, kept_table, loss_table, training_table
from colm.reports.summaries import summary_table
from colm.reports.tables import Table
from colm.reports.wording import headline

__all__ = [
    "Arm",
    "Comparison",
    "Findings",
    "Scores",
    "Table",
    "draw_table",
    "headline",
    "is_report",
    "join_comparisons",
    "kept_table",
    "loss_table",
    "read_many",
    "read_runs",
    "summary_table",
    "training_table",
    "write_page",
    "write_report",
]
