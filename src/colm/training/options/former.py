"""Options that there were, and what says the same now."""

from collections.abc import Iterable, Mapping

#: Former option -> what to say in its place.
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
    """Name what took the place of an option.

    Args:
        names: of options, without dashes before them.

    Raises:
        ValueError: one of them is a former one; one line that says what to set instead.
    """
    for name in names:
        if name in FORMER:
            raise ValueError(f"{name} is no option any more: {FORMER[name]}.")
