"""Data in: files, column layouts, mixtures of named sources."""

from colm.data.files import FORMATS, check_file, file_stem, is_data_file, read_file
from colm.data.formats import Formatted, format_dataset
from colm.data.layouts import LAYOUTS, Layout, find_layout
from colm.data.mixtures import Source, load_mixture, load_splits, named_files, source_name
from colm.data.patterns import SourceEntry, is_pattern
from colm.data.prompts import chat_prompt, plain_prompt
from colm.data.sources import (
    SOURCE_COLUMN,
    Split,
    add_source,
    source_counts,
    source_of,
    source_values,
    split_held_out,
)

__all__ = [
    "FORMATS",
    "LAYOUTS",
    "SOURCE_COLUMN",
    "Formatted",
    "Layout",
    "Source",
    "SourceEntry",
    "Split",
    "add_source",
    "chat_prompt",
    "check_file",
    "file_stem",
    "find_layout",
    "format_dataset",
    "is_data_file",
    "is_pattern",
    "load_mixture",
    "load_splits",
    "named_files",
    "plain_prompt",
    "read_file",
    "source_counts",
    "source_name",
    "source_of",
    "source_values",
    "split_held_out",
]
