"""Options of earlier versions, and what replaces each."""

from collections.abc import Iterable, Mapping

#: Former option -> what the error says of it.
FORMER: Mapping[str, str] = {
    "preset": (
        "selector names a method and brings its options (colm, ssm); gradient=zeroth_order is the "
        "papers' estimate, reference_behaviour=True their published code"
    ),
    "gradient_reduction": "features are of an example's mean loss",
    "example_weights": (
        "an example counts for its label tokens, as in the loss; CoresetSelector takes another"
    ),
    "skipped_layers": (
        "looks that skip layers cost more than shallower ones that match better: projections=spread"
    ),
    "selection_model": "candidates are looked at with the model in training",
    "normalisation": "it is spelled normalization",
    "gradient_depth": (
        "with projections=spread a look passes 0.17 of the layers; BlockGradients takes another"
    ),
    "gradient_layers": (
        "projections=spread is what gradient_layers=spread was, and projections=v the last layer"
    ),
    "selection_vocabulary": (
        "it follows from projections: with spread, the tokens that the candidates contain, else all"
    ),
}


def refuse_former(names: Iterable[str]) -> None:
    """Refuse options of earlier versions, and name what replaces them.

    Args:
        names: of options, without dashes before them.

    Raises:
        ValueError: one of them is such an option; one line says what to set instead.
    """
    for name in names:
        if name in FORMER:
            raise ValueError(f"{name} is no option any more: {FORMER[name]}.")
