"""Training: metrics, and weights on disk."""

from minidl.training.metrics import accuracy, confusion_matrix
from minidl.training.weights import load_weights, save_weights

__all__ = ["accuracy", "confusion_matrix", "load_weights", "save_weights"]
