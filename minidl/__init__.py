"""minidl: a deep learning framework small enough to read in an afternoon.

Coming from PyTorch: you know most of it already. `nn.Module`, `nn.Sequential`,
`nn.Conv2d(3, 32, 3, padding=1)`, `model.parameters()`, `loss.backward()`, `optimizer.zero_grad()`,
`with no_grad():` and `model.eval()` work the same way; `state_dict` has the same names and weight
layouts, so that weights travel both ways; initial weights have the same distributions, and
optimisers the same update rules. What differs:

| PyTorch | minidl | why |
| --- | --- | --- |
| `x.sum(dim=1)`, `keepdim` | `x.sum(axis=1)`, `keepdims` | NumPy's names for array ideas |
| `x.size()`, `x.shape` | `x.shape`; `x.size` counts elements | as in NumPy |
| `x.max(dim=1)`: values, indices | `x.max(axis=1)`: values | indices have no gradient |
| the indices | `x.numpy().argmax(1)` | |
| `x.relu()` and `F.relu(x)` | `F.relu(x)` | nothing is both method and function |
| `x.view`, `x.reshape` | `x.reshape` | one name; the error for PyTorch's other name says so |
| `x.detach().numpy()` | `x.numpy()` | reading a result needs no permission |
| `x.data` is a tensor | `x.data` is the array; operations read `x.array` | see below |
| `super().__init__()` in each module | not needed | nothing to forget |
| `x -= lr * x.grad` under `no_grad` | `x.data -= lr * x.grad` | see below |
| `.cuda()`, `.to(device)` | `.to("cuda")`, `Tensor(..., device="cuda")` | one way |
| `torch.from_numpy(a)` | `minidl.from_dlpack(a)` shares memory, `Tensor(a)` copies | as in NumPy |
| `torch.onnx.export` | `minidl.export_onnx(model, example, path)` | |
| `torch.autograd.grad`: a tuple | `minidl.grad`: a list | |
| `float32_tensor * float64_number` | float32 | as in PyTorch, not as in NumPy |

`x.array` is the NumPy or CuPy array that operations compute with. On a CPU, `x.data` is a view of
it whose in-place operators change the tensor; each change is counted, so that a `backward` that
needs the old values raises. Single elements are changed inside `with x.mutable() as array`; outside
such a block, both arrays are write-protected. On a GPU, `x.data` is `x.array` itself: CuPy's arrays
have no write protection, and only changes made through minidl are detected.
"""

from typing import TYPE_CHECKING

from minidl import functional as functional
from minidl import nn as nn
from minidl import optim as optim
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
from minidl.idioms import unknown
from minidl.random import manual_seed as manual_seed
from minidl.tensor import Tensor as Tensor
from minidl.tensor.edges import pad as pad
from minidl.tensor.functions import arange as arange
from minidl.tensor.functions import concatenate as concatenate
from minidl.tensor.functions import einsum as einsum
from minidl.tensor.functions import from_dlpack as from_dlpack
from minidl.tensor.functions import full as full
from minidl.tensor.functions import maximum as maximum
from minidl.tensor.functions import minimum as minimum
from minidl.tensor.functions import ones as ones
from minidl.tensor.functions import rand as rand
from minidl.tensor.functions import randn as randn
from minidl.tensor.functions import stack as stack
from minidl.tensor.functions import where as where
from minidl.tensor.functions import zeros as zeros
from minidl.tensor.ordering import sort as sort
from minidl.tensor.ordering import topk as topk
from minidl.tensor.running import cumsum as cumsum
from minidl.tensor.running import prod as prod
from minidl.tensor.scatter import index_add as index_add
from minidl.tensor.scatter import scatter_add as scatter_add
from minidl.tensor.special import cos as cos
from minidl.tensor.special import erf as erf
from minidl.tensor.special import sin as sin

__version__ = "0.1.0"

if TYPE_CHECKING:
    from minidl import data as data
    from minidl import distributed as distributed
    from minidl import inspect as inspect
    from minidl import models as models
    from minidl import training as training
    from minidl.inspect.gradcheck import gradcheck as gradcheck
    from minidl.onnx.export import export_onnx as export_onnx
    from minidl.recompute import checkpointed as checkpointed
    from minidl.training.capture import capture as capture
else:
    # Imported on first use: this halves the time that `import minidl` takes in addition to NumPy's.
    _PACKAGES = ("data", "distributed", "inspect", "models", "training")
    _NAMES = {
        "gradcheck": "minidl.inspect",
        "capture": "minidl.training.capture",
        "export_onnx": "minidl.onnx",
        "checkpointed": "minidl.recompute",
    }

    def __getattr__(name: str) -> object:
        import importlib

        if name in _PACKAGES:
            return importlib.import_module(f"minidl.{name}")
        if name not in _NAMES:
            raise unknown("minidl", name)
        found = globals()[name] = getattr(importlib.import_module(_NAMES[name]), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *_PACKAGES, *_NAMES})
