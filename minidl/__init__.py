"""minidl: a deep learning framework small enough to read in an afternoon."""

from minidl import data as data
from minidl import functional as functional
from minidl import inspect as inspect
from minidl import models as models
from minidl import nn as nn
from minidl import optim as optim
from minidl import training as training
from minidl.anomaly import detect_anomaly
from minidl.autograd import no_grad
from minidl.backends.cpu.numpy_backend import get_num_threads, set_num_threads
from minidl.backends.cuda.cupy_backend import (
    get_deterministic,
    get_tf32,
    set_deterministic,
    set_tf32,
)
from minidl.derivatives import grad, hessian, hvp, jacobian
from minidl.inspect import gradcheck
from minidl.random import manual_seed
from minidl.tensor import Tensor
from minidl.tensor.functions import (
    arange,
    concatenate,
    einsum,
    full,
    maximum,
    minimum,
    ones,
    pad,
    rand,
    randn,
    stack,
    where,
    zeros,
)
from minidl.training.capture import capture

__version__ = "0.1.0"

__all__ = [
    "Tensor",
    "arange",
    "capture",
    "concatenate",
    "data",
    "detect_anomaly",
    "einsum",
    "full",
    "functional",
    "get_deterministic",
    "get_num_threads",
    "get_tf32",
    "grad",
    "gradcheck",
    "hessian",
    "hvp",
    "inspect",
    "jacobian",
    "manual_seed",
    "maximum",
    "minimum",
    "models",
    "nn",
    "no_grad",
    "ones",
    "optim",
    "pad",
    "rand",
    "randn",
    "set_deterministic",
    "set_num_threads",
    "set_tf32",
    "stack",
    "training",
    "where",
    "zeros",
]
