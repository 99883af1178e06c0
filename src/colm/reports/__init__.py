"""One self-contained page a comparison, and the tables and plots it is made of."""

from colm.reports.comparison import Arm, Comparison, Scores
from colm.reports.page import headline, write_report
from colm.reports.tables import Table, loss_table, source_table, summary_table

__all__ = [
    "Arm",
    "Comparison",
    "Scores",
    "Table",
    "headline",
    "loss_table",
    "source_table",
    "summary_table",
    "write_report",
]
