"""What the papers report, each with where it was read.

A figure stands here only where a source for it was at hand: SSM's whole text, the abstracts on
arXiv, the captions of CoLM's figures, the authors' code repository, or a text that quotes CoLM with
the number of its table, which is then named as second-hand. What could not be read is said to be
not at hand.
"""

from dataclasses import dataclass

from benchmarks.page import ssm_tables
from benchmarks.page.ssm_tables import BARE, gain

SSM = "[SSM](https://arxiv.org/abs/2407.19580v1)"
COLM = "[CoLM](https://arxiv.org/abs/2407.19580)"
METHOD = "[Method](method.md)"
CAPTION = f"{COLM}, caption of Figure"
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
    table: str = ""

    def show(self) -> str:
        """Return all of it as a list, and the paper's table below."""
        said = [claim.show() for claim in self.claims]
        if self.not_at_hand:
            said.append(f"Not at hand: {self.not_at_hand}.")
        shown = "\n".join(f"- {line}" for line in said)
        return f"{shown}\n\n{self.table}" if self.table else shown


_FIGURE = "the values drawn"

MAIN = Report(
    (
        Claim(
            "Phi-2 on MathInstruct, accuracy in the table below: keeping 64 of 128, SSM is "
            f"{gain('SSM', '64')} points above 64 at random after 1K steps and "
            f"{gain('SSM', '64', '2K')} after 2K, {gain('SSM', '128')} and "
            f"{gain('SSM', '128', '2K')} above 128 at random",
            f"{SSM}, Table 1",
        ),
        Claim(
            "At equal steps, that is: the paper has no comparison at equal time. 64 at random for "
            "2K steps, as many examples trained on as 128 for 1K, is "
            f"{gain('64', 'SSM', '2K', '1K')} points above SSM for 1K",
            f"worked out from {SSM}, Table 1",
        ),
        Claim(
            "SSM after 2K steps has a mean of 52.8 over the in-domain sets; the table says 52.4",
            f"worked out from {SSM}, Table 1",
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
    "CoLM's accuracies of plain training",
    ssm_tables.MAIN,
)
WEIGHTED = Report(
    (
        Claim(
            "SSM draws candidates with a probability inversely proportional to the size of their "
            "source; CoLM draws uniformly and keeps small sources instead",
            METHOD,
        ),
        Claim(
            f"Of the {gain('SSM', '64')} points that SSM gains over 64 at random, weighted "
            f"sampling is {gain('SSM', BARE)}: without it SSM is {gain(BARE, '64')} above 64 and "
            f"{-gain(BARE, '128')} below 128",
            f"{SSM}, Tables 1 and 2",
        ),
        Claim(
            "The paper has no run with such draws and a random choice, which would tell the draws "
            "from the medoids",
            SSM,
        ),
    ),
    table=ssm_tables.WEIGHTED,
)
CRITERION = Report(
    (
        Claim(
            "CoLM keeps the dimensions of the gradient with the largest normalised magnitude",
            f"{COLM}, abstract",
        ),
        Claim(
            "SSM keeps those of the largest gradient; the weight does as well within the "
            "deviation, and weight times gradient is 0.7 points lower",
            f"{SSM}, Table 3",
        ),
    ),
    table=ssm_tables.CRITERION,
)
SPARSITY = Report(
    (
        Claim(
            "2,560 dimensions, as few as 0.7 % of Phi-2's LoRA factor, are kept",
            f"CoLM, Table 4, {AUDIT}",
        ),
        Claim(
            "Half as many and twice as many are 0.8 and 0.9 points lower",
            f"{SSM}, Table 4",
        ),
    ),
    table=ssm_tables.SPARSITY,
)
COST = Report(
    (
        Claim(
            "CoLM at 64 of 128 outperforms plain training of Phi-2 on MathInstruct, 1,000 steps of "
            "128 examples and of 256",
            f"{CAPTION} 3a",
        ),
        Claim(
            "It is above 64 and 128 at random with every model, and improves other sizes of "
            "mini-batch; the memory that it saves grows with the mini-batch",
            f"{CAPTION} 2",
        ),
        Claim(
            "Phi-2 with mini-batches of 128 takes at least 44 GB, and SSM half of that",
            f"{SSM}, introduction and Figure 2",
        ),
    ),
    "the accuracies drawn in CoLM's figures, by model or otherwise",
)
TIME = Report(
    (
        Claim(
            "CoLM is 1.3 times as fast as plain training on 128 examples and 2.7 times as fast as "
            "on 256, the time of its selection included",
            f"{CAPTION} 3a",
        ),
        Claim(
            "SSM is 1.3 times as fast as plain training on 128 examples, 1K steps of each, the "
            "time of its selection included",
            f"{SSM}, Figure 2",
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
            f"{CAPTION} 3a",
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
            f"{CAPTION} 3b",
        ),
    ),
    _FIGURE,
)
DRIFT = Report((), "whether the papers measure this")
CONVERGENCE = Report(
    (
        Claim("CoLM converges much faster than plain fine-tuning", f"{CAPTION} 3c"),
        Claim("CoLM has the smallest loss throughout a run", f"{CAPTION} 5a"),
        Claim("SSM is above 64 and 128 at random throughout a run", f"{SSM}, Figure 1"),
    ),
    _FIGURE,
)
LOSS_TIME = Report(
    (Claim("CoLM reaches its best accuracy in less time than plain training", f"{CAPTION} 5b"),),
    _FIGURE,
)
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
LENGTH = Report(
    (
        Claim(
            "The paper sets the mean length of the completions that CoLM selects beside those of "
            "random examples and of the longest in a random mini-batch",
            f"{CAPTION} 4b",
        ),
    ),
    _FIGURE,
)
#: What others find where a look has to pay for itself, and where none is taken.
EQUAL_COST = Report(
    (
        Claim(
            "With a random choice among the baselines, neither the highest losses nor the subset "
            "whose last-layer gradient matches the mini-batch's is consistently better",
            "Balles et al. 2023, [arXiv 2312.05021](https://arxiv.org/abs/2312.05021)",
        ),
        Claim(
            "Pre-training BERT and T5 on a fixed budget, what selective back-propagation and "
            "RHO-loss gain over plain training vanishes",
            "Kaddour et al. 2023, [arXiv 2307.06440](https://arxiv.org/abs/2307.06440)",
        ),
        Claim(
            "Where choosing is paid for from the budget of fine-tuning, choices by perplexity and "
            "by gradients pay once the model trained is about 5 and 10 times as large as the one "
            "that chooses; cheap choices are better before",
            "Yin and Rush 2024, [arXiv 2410.16208](https://arxiv.org/abs/2410.16208)",
        ),
        Claim(
            "Losses that training has computed anyway cost no look. Training on the mini-batches "
            "with the highest of them takes some image classifiers fewer epochs",
            "Sahayam et al. 2023, [arXiv 2304.03486](https://arxiv.org/abs/2304.03486)",
        ),
        Claim(
            "Dropping at random a part of the examples below the mean of such losses, and weighing "
            "the rest, fine-tunes LLaMA as well at a fifth less cost",
            "InfoBatch, Qin et al. 2023, [arXiv 2303.04947](https://arxiv.org/abs/2303.04947)",
        ),
    )
)
