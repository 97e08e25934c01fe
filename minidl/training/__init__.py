"""Training: the loop and what keeps it safe, diagnosis, metrics, weights on disk."""

from minidl.training.checkpoint import load_checkpoint, save_checkpoint
from minidl.training.evaluation import evaluate, predict
from minidl.training.fit import Run, fit
from minidl.training.history import History
from minidl.training.metrics import (
    Scores,
    accuracy,
    class_scores,
    confusion_matrix,
    macro_scores,
    micro_scores,
    top_k_accuracy,
)
from minidl.training.warnings import TrainingWarning, overfit_one_batch
from minidl.training.weights import load_weights, save_weights

__all__ = [
    "History",
    "Run",
    "Scores",
    "TrainingWarning",
    "accuracy",
    "class_scores",
    "confusion_matrix",
    "evaluate",
    "fit",
    "load_checkpoint",
    "load_weights",
    "macro_scores",
    "micro_scores",
    "overfit_one_batch",
    "predict",
    "save_checkpoint",
    "save_weights",
    "top_k_accuracy",
]
