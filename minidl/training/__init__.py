"""Training: the loop, saving and resuming it, warnings, metrics, weights on disk."""

from minidl.files.checkpoint import load_checkpoint as load_checkpoint
from minidl.files.checkpoint import save_checkpoint as save_checkpoint
from minidl.files.weights import load_weights as load_weights
from minidl.files.weights import save_weights as save_weights
from minidl.training.evaluation import evaluate as evaluate
from minidl.training.evaluation import predict as predict
from minidl.training.fit import fit as fit
from minidl.training.history import History as History
from minidl.training.metrics import Scores as Scores
from minidl.training.metrics import accuracy as accuracy
from minidl.training.metrics import class_scores as class_scores
from minidl.training.metrics import confusion_matrix as confusion_matrix
from minidl.training.metrics import macro_scores as macro_scores
from minidl.training.metrics import micro_scores as micro_scores
from minidl.training.metrics import top_k_accuracy as top_k_accuracy
from minidl.training.run import Run as Run
from minidl.training.warnings import TrainingWarning as TrainingWarning
from minidl.training.warnings import overfit_one_batch as overfit_one_batch
