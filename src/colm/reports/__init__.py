"""One self-contained page of runs, and the tables and plots it is made of."""

from colm.reports.arm import Arm, Scores
from colm.reports.comparison import Comparison, Findings
from colm.reports.page import is_report, write_page, write_report
from colm.reports.runs import join_comparisons, read_many, read_runs
from colm.reports.summaries import loss_table, source_table, summary_table
from colm.reports.tables import Table
from colm.reports.wording import headline

__all__ = [
    "Arm",
    "Comparison",
    "Findings",
    "Scores",
    "Table",
    "headline",
    "is_report",
    "join_comparisons",
    "loss_table",
    "read_many",
    "read_runs",
    "source_table",
    "summary_table",
    "write_page",
    "write_report",
]
