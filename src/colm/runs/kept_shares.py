"""What is kept of the candidates of some steps: one by one, and as shares by source."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from colm.source_names import MOST_SOURCES, OTHER_SOURCES


@dataclass(frozen=True)
class Candidate:
    """What becomes of an example that is drawn.

    Attributes:
        step: optimiser step, counted from 0.
        source: name of its source.
        key: hash of its token ids and labels, 16 hexadecimal digits; equal examples share it.
        label_tokens: tokens that its loss counts.
        kept: whether it is trained on.
        weight: of its loss; 0 where it is not kept.
        text: its tokens as text.
    """

    step: int
    source: str
    key: str
    label_tokens: int
    kept: bool
    weight: float
    text: str


@dataclass(frozen=True)
class Share:
    """How many candidates there are, and how many of them are kept.

    Attributes:
        candidates: all of them.
        kept: those trained on.
        label_tokens: of all.
        kept_label_tokens: of the kept.
    """

    candidates: int
    kept: int
    label_tokens: int
    kept_label_tokens: int

    @property
    def of_candidates(self) -> float:
        """Kept candidates over all, 0 to 1."""
        return self.kept / max(1, self.candidates)

    @property
    def of_label_tokens(self) -> float:
        """Label tokens of the kept over those of all, 0 to 1."""
        return self.kept_label_tokens / max(1, self.label_tokens)


def share_of(candidates: Sequence[Candidate]) -> Share:
    """Count candidates and kept ones.

    Args:
        candidates: some, of any steps and sources.

    Returns:
        The counts.

    Example:
        >>> drawn = [Candidate(0, "web", "", tokens, tokens > 5, 1.0, "") for tokens in (4, 6)]
        >>> share_of(drawn).of_label_tokens
        0.6
    """
    kept = [each for each in candidates if each.kept]
    return Share(
        len(candidates),
        len(kept),
        sum(each.label_tokens for each in candidates),
        sum(each.label_tokens for each in kept),
    )


def shares_by_source(candidates: Sequence[Candidate]) -> dict[str, Share]:
    """Count candidates and kept ones of each source, those with the most candidates first.

    Args:
        candidates: of any steps.

    Returns:
        The counts by source. Of more than ``MOST_SOURCES`` sources, the rest are summed up as
        ``OTHER_SOURCES``, as where a run logs them.

    Example:
        >>> drawn = [Candidate(0, name, "", 4, True, 1.0, "") for name in ("web", "news", "web")]
        >>> {source: share.kept for source, share in shares_by_source(drawn).items()}
        {'web': 2, 'news': 1}
    """
    found: dict[str, list[Candidate]] = defaultdict(list)
    for each in candidates:
        found[each.source].append(each)
    ordered = sorted(found, key=lambda source: (-len(found[source]), source))
    shares = {source: share_of(found[source]) for source in ordered[:MOST_SOURCES]}
    others = [each for source in ordered[MOST_SOURCES:] for each in found[source]]
    return shares | ({OTHER_SOURCES: share_of(others)} if others else {})
