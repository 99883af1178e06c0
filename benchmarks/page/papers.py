"""What the two papers report, each with where it was read.

A figure stands here only where a source for it was at hand: the abstracts on arXiv, the authors'
code repository, or a text that quotes the paper with the number of its table or figure, which is
then named as second-hand. What could not be read is said to be not at hand.
"""

from dataclasses import dataclass

SSM = "[SSM](https://arxiv.org/abs/2407.19580v1)"
COLM = "[CoLM](https://arxiv.org/abs/2407.19580)"
METHOD = "[Method](method.md)"
CAPTION = (
    "CoLM, caption of Figure 3, second-hand from [a review](https://liner.com/review/"
    "minibatch-coresets-for-memoryefficient-language-model-training-on-data-mixtures)"
)
AUDIT = "second-hand from an audit of the paper in a public fork of the authors' code"
AUTHORS_CODE = "[the authors' code](https://github.com/BigML-CS-UCLA/CoLM), its README"


@dataclass(frozen=True)
class Claim:
    """A sentence on what a paper reports, and where it was read."""

    text: str
    source: str

    def show(self) -> str:
        """Return both as one sentence."""
        return f"{self.text} ({self.source})."


@dataclass(frozen=True)
class Report:
    """What the papers report on one thing, and what of that was not at hand."""

    claims: tuple[Claim, ...] = ()
    not_at_hand: str = ""

    def show(self) -> str:
        """Return all of it as a list."""
        said = [claim.show() for claim in self.claims]
        if self.not_at_hand:
            said.append(f"Not at hand: {self.not_at_hand}.")
        return "\n".join(f"- {line}" for line in said)


_FIGURE = "the paper's figure and its values"

MAIN = Report(
    (
        Claim(
            "Fine-tuning Phi-2 on MathInstruct, training on what SSM selects takes half the memory "
            "and is 1.3 times as fast",
            f"{SSM}, abstract",
        ),
        Claim(
            "CoLM takes half the memory and outperforms training on mini-batches four times as "
            "large; Phi-2, Phi-3, Zephyr and Llama-3 with LoRA, MathInstruct and SuperGLUE",
            f"{COLM}, abstract",
        ),
        Claim(
            "Keeping 64 of 128 examples with CoLM, the average accuracy is 56.6 % with a deviation "
            "of 0.9, 51.9 % in-domain and 61.4 % out-of-domain; with the exact gradient in place "
            "of the estimate 54.7 % with a deviation of 0.3, 51.0 % and 58.3 %",
            f"CoLM, Table 5, {AUDIT}",
        ),
        Claim(
            "Of its parts, keeping small sources adds 3 points of average accuracy, normalising as "
            "Adam does 1.5, selecting source by source 0.5, and equal weights 0.4; the deviation "
            "of averages is 0.5 to 0.9",
            f"CoLM, Table 2, {AUDIT}",
        ),
    ),
    "the accuracies in SSM's Table 1, and those of plain training in either paper",
)
WEIGHTED = Report(
    (
        Claim(
            "SSM draws candidates with a probability inversely proportional to the size of their "
            "source; CoLM draws uniformly and keeps small sources instead",
            METHOD,
        ),
    ),
    "the figures of SSM's Table 2",
)
CRITERION = Report(
    (
        Claim(
            "CoLM keeps the dimensions of the gradient with the largest normalised magnitude",
            f"{COLM}, abstract",
        ),
        Claim("SSM compares that with other criteria in an ablation", METHOD),
    ),
    "the figures of SSM's Table 3",
)
SPARSITY = Report(
    (
        Claim(
            "2,560 dimensions, as few as 0.7 % of Phi-2's LoRA factor, are kept",
            f"CoLM, Table 4, {AUDIT}",
        ),
    ),
    "the figures of SSM's Table 4",
)
COST = Report(
    (
        Claim(
            "CoLM at 64 of 128 outperforms plain training of Phi-2 on MathInstruct, 1,000 steps of "
            "128 examples and of 256",
            f"{CAPTION}, part a",
        ),
    ),
    "the accuracies drawn in CoLM's figures, by model or otherwise",
)
TIME = Report(
    (
        Claim(
            "CoLM is 1.3 times as fast as plain training on 128 examples and 2.7 times as fast as "
            "on 256",
            f"{CAPTION}, part a",
        ),
        Claim(
            "The time reported is an ideal one, a forward of 128 examples and a forward and "
            "backward of 64; the implementation adds to it",
            AUTHORS_CODE,
        ),
    ),
)
MEMORY = Report(
    (
        Claim(
            "CoLM takes 20 % less memory than plain training on 128 examples, and 45 % less than "
            "on 256",
            f"{CAPTION}, part a",
        ),
    ),
)
#: Speed of CoLM over plain training on n and on 2n, and memory saved: CoLM, Figure 3a.
SPEED = {"plain n": 1.3, "plain 2n": 2.7}
MEMORY_SAVED = {"plain n": 0.20, "plain 2n": 0.45}
VARIANCE = Report(
    (
        Claim(
            "CoLM has a smaller variance than random mini-batches of the same size",
            f"{CAPTION}, part b",
        ),
    ),
    "the values drawn",
)
DRIFT = Report((), "whether the papers measure this")
CONVERGENCE = Report(
    (Claim("CoLM converges much faster than plain fine-tuning", f"{CAPTION}, part c"),),
    "the values drawn",
)
LOSS_TIME = Report((), _FIGURE)
SOURCES = Report(
    (
        Claim(
            "Coresets found by matching gradients do not represent small sources, with high "
            "probability, so all of their examples are kept",
            f"{COLM}, abstract",
        ),
    ),
    _FIGURE,
)
LENGTH = Report((), _FIGURE)
