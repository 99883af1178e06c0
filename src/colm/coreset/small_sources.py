"""Small sources in the course of training: which they are, and which candidates that keeps whole.

Theorem 4.1 of CoLM v3: medoids of a random mini-batch stand for large sources, not for small ones.
`mixture.small_sources` has the threshold; here it meets what the user named and what was seen.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from colm.coreset.checks import as_list, shown
from colm.coreset.mixture import small_sources
from colm.source_names import as_source_name, as_source_names

SMALL_SOURCES_AUTO = "auto"
SMALL_SOURCES_NONE = "none"


class SmallSources:
    """Knows which sources are kept whole, and counts what it has seen where nobody told sizes.

    Args:
        rule: ``auto``, ``none``, or the names of the sources to keep whole.
        sizes: examples of each source in the data set; without it ``auto`` goes by the candidates
            seen so far.
        keeps_automatically: whether the selector in use keeps small sources under ``auto``.
    """

    def __init__(
        self,
        rule: str | Iterable[str | int],
        sizes: Mapping[str, int] | Mapping[int, int] | None,
        *,
        keeps_automatically: bool,
    ) -> None:
        names = _names_of(rule)
        if names is None:
            raise ValueError(
                f"small_sources must be auto, none or a list of names; got {shown(rule)}."
            )
        if sizes is not None and not _is_counts(sizes):
            raise ValueError(f"source_sizes must be counts by source; got {shown(sizes)}.")
        self._automatic = names == [SMALL_SOURCES_AUTO] and keeps_automatically
        is_rule = names in ([SMALL_SOURCES_AUTO], [SMALL_SOURCES_NONE])
        self._named: frozenset[str] = frozenset() if is_rule else frozenset(names)
        self._sizes: Counter[str] | None = None
        if sizes is not None:
            self._sizes = Counter()
            for source, size in sizes.items():
                self._sizes[as_source_name(source)] += size
        self.seen: Counter[str] = Counter()

    def see(self, names: Sequence[str]) -> None:
        """Count the candidates of a step, ``names [n]`` being their sources."""
        self.seen.update(names)

    def names(self) -> frozenset[str]:
        """Return the sources to keep whole, by what is known now."""
        if not self._automatic:
            return self._named
        return small_sources(self.seen if self._sizes is None else self._sizes)


def _names_of(rule: object) -> list[str] | None:
    """The names in a rule, ``None`` where it holds something else."""
    named = [rule] if isinstance(rule, str) else as_list(rule)
    try:
        return None if named is None else as_source_names(named)
    except ValueError:
        return None


def _is_counts(sizes: object) -> bool:
    return isinstance(sizes, Mapping) and all(
        isinstance(count, int) and count >= 0 for count in sizes.values()
    )
