"""Training: the loop, saving and resuming it, warnings, metrics, weights on disk.

    overfit_one_batch(model, batch)  # the first check: can the network memorise 64 examples?
    history = fit(model, loss, adam, train, validation, epochs=10, checkpoint="out/run")
    model.load_state_dict(load_weights("out/run/best.npz"))

* Runs survive: kill one at any time, even mid-write, and resuming gives bit-identical results.
  Weights, optimiser, schedule, all random streams and the position in the data are in one file with
  a checksum. A full disk causes a warning; Ctrl-C finishes the step and saves. A checkpoint of a
  run with other data, layers or settings is refused, and two runs cannot share a folder.
* Runs say what is wrong: a first loss far from ln(classes), a loss that never improves, inputs that
  are not normalised, labels out of range, a parameter without a gradient, and for NaN the operation
  that produced the first one, with the source line that ran it.
* `fit` takes schedules (`optim.OneCycleLR`, ...), clipping, accumulation, early stopping and
  callbacks, and returns a history as arrays, CSV or JSON. It costs 1 % more than a bare loop.
* `load_weights` reads `.safetensors`, PyTorch's files (also from before version 1.6), `.npz` and
  sharded checkpoints, without PyTorch and without executing anything in them. It finds the weights
  in a checkpoint, skips everything else, and refuses a file that is damaged, has no weights or
  would fill the memory, with a message that says what was found. `save_weights` writes `.npz`,
  `.safetensors` and `.pt` files.
  `models.resnet18`, `34` and `50` have torchvision's names and shapes, `resnet20` to `56` those of
  He et al. for CIFAR:

    model = models.resnet50()
    model.load_state_dict(load_weights("resnet50.pth"))  # torchvision's own file
    save_weights(model.state_dict(), "resnet50.safetensors")
"""

from minidl.files.checkpoint import load_checkpoint as load_checkpoint
from minidl.files.checkpoint import save_checkpoint as save_checkpoint
from minidl.files.weights import load_weights as load_weights
from minidl.files.weights import save_weights as save_weights
from minidl.training.detection import box_iou as box_iou
from minidl.training.detection import mean_average_precision as mean_average_precision
from minidl.training.evaluation import evaluate as evaluate
from minidl.training.evaluation import predict as predict
from minidl.training.fit import fit as fit
from minidl.training.history import History as History
from minidl.training.metrics import Scores as Scores
from minidl.training.metrics import accuracy as accuracy
from minidl.training.metrics import boundary_f1 as boundary_f1
from minidl.training.metrics import class_iou as class_iou
from minidl.training.metrics import class_scores as class_scores
from minidl.training.metrics import confusion_matrix as confusion_matrix
from minidl.training.metrics import macro_scores as macro_scores
from minidl.training.metrics import mean_iou as mean_iou
from minidl.training.metrics import micro_scores as micro_scores
from minidl.training.metrics import top_k_accuracy as top_k_accuracy
from minidl.training.progress import Output as Output
from minidl.training.run import Run as Run
from minidl.training.warnings import TrainingWarning as TrainingWarning
from minidl.training.warnings import overfit_one_batch as overfit_one_batch
