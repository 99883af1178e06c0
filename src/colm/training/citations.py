"""The papers that model cards cite: of selectors, draws, optimisers and ways to save memory."""

from typing import NamedTuple


class Paper(NamedTuple):
    """A paper, as model cards cite it.

    Attributes:
        title: in full.
        arxiv: its number.
        citation: its entry of BibTeX.
    """

    title: str
    arxiv: str
    citation: str


class Origin(NamedTuple):
    """What a selector goes back to.

    Attributes:
        words: what the paper has to do with it.
        title: of the paper.
        arxiv: its number.
    """

    words: str
    title: str
    arxiv: str


_COLM_AUTHORS = "Dang Nguyen and Wenhan Yang and Rathul Anand and Yu Yang and Baharan Mirzasoleiman"
_COLM = "Mini-batch Coresets for Memory-efficient Language Model Training on Data Mixtures"
_SSM = "Memory-efficient Training of LLMs with Larger Mini-batches"
_RSO = (
    "A Memory Efficient Randomized Subspace Optimization Method for Training Large Language Models"
)
_SHERL = (
    "SHERL: Synthesizing High Accuracy and Efficient Memory for Resource-Limited Transfer Learning"
)
_PEMA = "Vocabulary-level Memory Efficiency for Language Model Fine-tuning"

COLM = Paper(
    _COLM,
    "2407.19580",
    "@inproceedings{nguyen2025colm,\n"
    f"    title = {{{_COLM}}},\n"
    f"    author = {{{_COLM_AUTHORS}}},\n"
    "    booktitle = {International Conference on Learning Representations},\n"
    "    year = 2025\n"
    "}",
)
SSM = Paper(
    _SSM,
    "2407.19580v1",
    "@misc{nguyen2024ssm,\n"
    f"    title = {{{_SSM}}},\n"
    f"    author = {{{_COLM_AUTHORS}}},\n"
    "    note = {arXiv 2407.19580, version 1},\n"
    "    year = 2024\n"
    "}",
)
RSO = Paper(
    _RSO,
    "2502.07222",
    "@inproceedings{chen2025rso,\n"
    f"    title = {{{_RSO}}},\n"
    "    author = {Yiming Chen and Yuan Zhang and Yin Liu and Kun Yuan and Zaiwen Wen},\n"
    "    booktitle = {International Conference on Machine Learning},\n"
    "    year = 2025\n"
    "}",
)
PEMA = Paper(
    _PEMA,
    "2309.08708",
    "@misc{williams2023pema,\n"
    f"    title = {{{_PEMA}}},\n"
    "    author = {Miles Williams and Nikolaos Aletras},\n"
    "    note = {arXiv 2309.08708},\n"
    "    year = 2023\n"
    "}",
)

SHERL = Paper(
    _SHERL,
    "2407.07523",
    "@inproceedings{diao2024sherl,\n"
    f"    title = {{{_SHERL}}},\n"
    "    author = {Haiwen Diao and Bo Wan and Xu Jia and Yunzhi Zhuge and Ying Zhang and Huchuan Lu"
    " and Long Chen},\n"
    "    booktitle = {European Conference on Computer Vision},\n"
    "    year = 2024\n"
    "}",
)


def _preprint(key: str, title: str, first_author: str, arxiv: str, year: int) -> Paper:
    """A paper that is cited by its number."""
    citation = (
        f"@misc{{{key},\n"
        f"    title = {{{title}}},\n"
        f"    author = {{{first_author} and others}},\n"
        f"    note = {{arXiv {arxiv}}},\n"
        f"    year = {year}\n"
        "}"
    )
    return Paper(title, arxiv, citation)


#: What low-rank Adam's choices of a subspace go back to.
OF_SUBSPACES = {
    "top": _preprint(
        "zhao2024galore",
        "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection",
        "Jiawei Zhao",
        "2403.03507",
        2024,
    ),
    "sampled": _preprint(
        "zhang2025frozen",
        "Breaking the Frozen Subspace: Importance Sampling for Low-Rank Optimization in LLM "
        "Pretraining",
        "Haochen Zhang",
        "2502.05790",
        2025,
    ),
    "random": _preprint(
        "he2024golore",
        "Subspace Optimization for Large Language Models with Convergence Guarantees",
        "Yutong He",
        "2410.11289",
        2024,
    ),
    "wavelet": _preprint(
        "wen2025gwt",
        "Wavelet Meets Adam: Compressing Gradients for Memory-Efficient Training",
        "Ziqing Wen",
        "2501.07237",
        2025,
    ),
    "sketched": _preprint(
        "yang2025sgc",
        "Sparse Gradient Compression for Fine-Tuning Large Language Models",
        "David H. Yang",
        "2502.00311",
        2025,
    ),
}
#: Other optimisers of colm's: what each is called, and its paper.
OF_OPTIMIZERS = {
    "came": (
        "CAME",
        _preprint(
            "luo2023came",
            "CAME: Confidence-guided Adaptive Memory Efficient Optimization",
            "Yang Luo",
            "2307.02047",
            2023,
        ),
    ),
    "lamb": (
        "LAMB",
        _preprint(
            "you2020lamb",
            "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
            "Yang You",
            "1904.00962",
            2020,
        ),
    ),
}
#: What zeroth order is called by how it draws directions, and its paper.
OF_DIRECTIONS = {
    "gaussian": (
        "MeZO",
        _preprint(
            "malladi2023mezo",
            "Fine-Tuning Language Models with Just Forward Passes",
            "Sadhika Malladi",
            "2305.17333",
            2023,
        ),
    ),
    "subspace": (
        "SubZero",
        _preprint(
            "yu2024subzero",
            "Zeroth-Order Fine-Tuning of LLMs in Random Subspaces",
            "Ziming Yu",
            "2410.08989",
            2024,
        ),
    ),
    "low_rank": (
        "LOZO",
        _preprint(
            "chen2024lozo",
            "Enhancing Zeroth-order Fine-tuning for Language Models with Low-rank Structures",
            "Yiming Chen",
            "2410.07698",
            2024,
        ),
    ),
}
#: Draws, stored losses and averages that are a paper's: option and value, what a run is called by
#: them, and the paper.
OF_CHOICES = {
    ("candidate_sampling", "unimax"): (
        "UniMax draws",
        _preprint(
            "chung2023unimax",
            "UniMax: Fairer and more Effective Language Sampling for Large-Scale Multilingual "
            "Pretraining",
            "Hyung Won Chung",
            "2304.09151",
            2023,
        ),
    ),
    ("candidate_sampling", "temperature"): (
        "draws by temperature",
        _preprint(
            "arivazhagan2019massively",
            "Massively Multilingual Neural Machine Translation in the Wild: Findings and "
            "Challenges",
            "Naveen Arivazhagan",
            "1907.05019",
            2019,
        ),
    ),
    ("candidate_sampling", "adaptive"): (
        "adaptive draws",
        _preprint(
            "jiang2024ado",
            "Adaptive Data Optimization: Dynamic Sample Selection with Scaling Laws",
            "Yiding Jiang",
            "2410.11820",
            2024,
        ),
    ),
    ("stored_losses", "hard"): (
        "hard samples",
        _preprint(
            "sahayam2023hard",
            "Can we learn better with hard samples?",
            "Subin Sahayam",
            "2304.03486",
            2023,
        ),
    ),
    ("stored_losses", "infobatch"): (
        "InfoBatch",
        _preprint(
            "qin2023infobatch",
            "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning",
            "Ziheng Qin",
            "2303.04947",
            2023,
        ),
    ),
    ("loss_average", "root"): (
        "square averaging",
        _preprint(
            "chen2024internvl25",
            "Expanding Performance Boundaries of Open-Source Multimodal Models with Model, Data, "
            "and Test-Time Scaling",
            "Zhe Chen",
            "2412.05271",
            2024,
        ),
    ),
}
#: Selectors that are a paper's method: what it is called there, and the paper.
OF_METHODS = {"colm": ("CoLM", COLM), "ssm": ("SSM", SSM)}
_OWN = "this library's own, and goes back to"
_WALK = Origin(_OWN, "The Gram-Schmidt Walk: A Cure for the Banaszczyk Blues", "1708.01079")
#: What other selectors go back to.
OF_SELECTORS = {
    "balanced_sampling": _WALK,
    "importance_sampling": _WALK,
    "gradient_matching": Origin(
        _OWN,
        "GRAD-MATCH: Gradient Matching based Data Subset Selection for Efficient Deep Model "
        "Training",
        "2103.00123",
    ),
    "top_loss": Origin(
        "after",
        "Ordered SGD: A New Stochastic Optimization Framework for Empirical Risk Minimization",
        "1907.04371",
    ),
    "selective_backprop": Origin(
        "after", "Accelerating Deep Learning by Focusing on the Biggest Losers", "1910.00762"
    ),
    "longest": Origin(
        "after",
        "Long Is More for Alignment: A Simple but Tough-to-Beat Baseline for Instruction "
        "Fine-Tuning",
        "2402.04833",
    ),
    "middle_perplexity": Origin(
        "after",
        "When Less is More: Investigating Data Pruning for Pretraining LLMs at Scale",
        "2309.04564",
    ),
    "gradient_norm": Origin(
        "after",
        "Not All Samples Are Created Equal: Deep Learning with Importance Sampling",
        "1803.00942",
    ),
    "hidden_facility_location": Origin(
        "after",
        "An Experimental Design Framework for Label-Efficient Supervised Finetuning of Large "
        "Language Models",
        "2401.06692",
    ),
}
