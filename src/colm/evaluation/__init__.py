"""How good a model is: held-out loss by source, and the answers it gives."""

from colm.evaluation.generation import AnswerScores, generate_answers, score_answers
from colm.evaluation.held_out import HeldOutLoss, held_out_loss

__all__ = [
    "AnswerScores",
    "HeldOutLoss",
    "generate_answers",
    "held_out_loss",
    "score_answers",
]
