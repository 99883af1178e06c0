"""The part of a trainer that writes its model card: the plain one, citing this software, too."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from colm import __version__
from colm.durable import write_whole

if TYPE_CHECKING:  # to a type checker the mixin is a trainer, as it is wherever it is used
    from transformers import Trainer as _Base
else:
    _Base = object

#: What ``CITATION.cff`` says of this software, which a wheel has not got.
SOFTWARE = {
    "title": "colm: mini-batch coresets for fine-tuning language models",
    "author": "The colm authors",
    "version": __version__,
    "license": "Apache-2.0",
}
#: Where TRL's card comes to its own citation.
_BEFORE = "Cite TRL as:"


class CitingMixin(_Base):
    """Has model cards cite what trained the model, whatever papers it followed."""

    def create_model_card(self, *args: Any, **options: Any) -> None:
        """Write the plain trainer's card, and how to cite this software into it."""
        super().create_model_card(*args, **options)
        card = Path(self.args.output_dir) / "README.md"
        if self.is_world_process_zero() and card.is_file():
            write_whole(card, citing_software(card.read_text("utf-8")).encode())


def citing_software(card: str) -> str:
    """Return a model card that cites this software.

    Args:
        card: Markdown; of TRL's, the citation goes before its own.

    Returns:
        The card with an entry of BibTeX.
    """
    # Doubled braces keep BibTeX from taking "The colm authors" for a person's names.
    fields = SOFTWARE | {"author": f"{{{SOFTWARE['author']}}}"}
    lines = ",\n".join(f"    {name} = {{{value}}}" for name, value in fields.items())
    citation = f"Cite colm as:\n\n```bibtex\n@software{{colm,\n{lines}\n}}\n```\n"
    before, found, after = card.partition(_BEFORE)
    if found:
        return f"{before}{citation}\n{found}{after}"
    return f"{card.rstrip()}\n\n## Citations\n\n{citation}"
