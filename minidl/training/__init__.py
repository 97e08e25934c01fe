"""Training: metrics, and weights on disk."""

from minidl.training.metrics import Scores, accuracy, confusion_matrix, macro_scores
from minidl.training.weights import load_weights, save_weights

__all__ = [
    "Scores",
    "accuracy",
    "confusion_matrix",
    "load_weights",
    "macro_scores",
    "save_weights",
]
