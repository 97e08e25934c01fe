"""minidl: a deep learning framework small enough to read in an afternoon."""

from minidl import data as data
from minidl import functional as functional
from minidl import inspect as inspect
from minidl import models as models
from minidl import nn as nn
from minidl import optim as optim
from minidl import training as training
from minidl.anomaly import detect_anomaly as detect_anomaly
from minidl.autograd import no_grad as no_grad
from minidl.backends import get_kernels as get_kernels
from minidl.backends import set_kernels as set_kernels
from minidl.backends.cpu.threads import get_num_threads as get_num_threads
from minidl.backends.cpu.threads import set_num_threads as set_num_threads
from minidl.backends.cuda.setup import get_deterministic as get_deterministic
from minidl.backends.cuda.setup import get_tf32 as get_tf32
from minidl.backends.cuda.setup import set_deterministic as set_deterministic
from minidl.backends.cuda.setup import set_tf32 as set_tf32
from minidl.derivatives import grad as grad
from minidl.derivatives import hessian as hessian
from minidl.derivatives import hvp as hvp
from minidl.derivatives import jacobian as jacobian
from minidl.inspect import gradcheck as gradcheck
from minidl.random import manual_seed as manual_seed
from minidl.tensor import Tensor as Tensor
from minidl.tensor.functions import arange as arange
from minidl.tensor.functions import concatenate as concatenate
from minidl.tensor.functions import einsum as einsum
from minidl.tensor.functions import full as full
from minidl.tensor.functions import maximum as maximum
from minidl.tensor.functions import minimum as minimum
from minidl.tensor.functions import ones as ones
from minidl.tensor.functions import pad as pad
from minidl.tensor.functions import rand as rand
from minidl.tensor.functions import randn as randn
from minidl.tensor.functions import stack as stack
from minidl.tensor.functions import where as where
from minidl.tensor.functions import zeros as zeros
from minidl.training.capture import capture as capture

__version__ = "0.1.0"
