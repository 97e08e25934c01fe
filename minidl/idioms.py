"""What to write instead of PyTorch's names: errors for unknown attributes quote this table.

`.name` is an attribute of a tensor or module; `name` is one of minidl, `nn`, `optim` or `data`.

    .cuda            x.to("cuda"), model.to("cuda")
    .cpu             x.to("cpu"), model.to("cpu"); x.numpy() needs neither
    .view            x.reshape(...)
    .view_as         x.reshape(other.shape)
    .permute         x.transpose(0, 2, 1, ...)
    .t               x.T
    .dim             x.ndim
    .numel           x.size
    .clone           x.copy()
    .contiguous      x.copy(), though it is never needed
    .unsqueeze       x.expand_dims(axis)
    .expand          x.broadcast_to(shape)
    .expand_as       x.broadcast_to(other.shape)
    .repeat          minidl.concatenate([x, x], axis)
    .chunk           slices, such as x[:, :3]
    .split           slices, such as x[:, :3]
    .gather          indices, such as x[rows, columns]
    .index_select    indices, such as x[:, columns]
    .masked_fill     minidl.where(mask, value, x)
    .clamp           x.clip(low, high)
    .pow             x**2
    .add             x + y
    .sub             x - y
    .mul             x * y
    .div             x / y
    .neg             -x
    .mm              x @ y
    .bmm             x @ y
    .matmul          x @ y
    .dot             x @ y
    .eq              x == y, which is a plain array
    .sin             minidl.sin(x)
    .cos             minidl.cos(x)
    .erf             minidl.erf(x)
    .prod            minidl.prod(x, axis)
    .cumsum          minidl.cumsum(x, axis)
    .sort            minidl.sort(x, axis)
    .topk            minidl.topk(x, k, axis)
    .index_add       minidl.index_add(x, axis, index, source)
    .index_add_      x = minidl.index_add(x, axis, index, source)
    .scatter_add     minidl.scatter_add(x, axis, index, source)
    .scatter_add_    x = minidl.scatter_add(x, axis, index, source)
    .argmax          x.numpy().argmax(axis): an index has no gradient
    .argmin          x.numpy().argmin(axis): an index has no gradient
    .argsort         minidl.sort(x, axis)[1]
    .tolist          x.numpy().tolist()
    .relu            F.relu(x)
    .softmax         F.softmax(x, axis)
    .log_softmax     F.log_softmax(x, axis)
    .sigmoid         F.sigmoid(x)
    .float           x.to(dtype="float32"), model.to(dtype="float32")
    .double          x.to(dtype="float64"), model.to(dtype="float64")
    .long            x.to(dtype="int64")
    .int             x.to(dtype="int32")
    .bool            x.to(dtype="bool")
    .half            float32: there is no computation in half precision
    .bfloat16        float32: there is no computation in half precision
    .type            x.to(dtype=...)
    .astype          x.to(dtype=...)
    .is_cuda         x.device == "cuda"
    .detach_         x = x.detach()
    .zero_           x.grad = None for a gradient; with x.mutable() as array: array[...] = 0
    .fill_           with x.mutable() as array: array[...] = value
    .copy_           x.data = other
    .add_            with x.mutable() as array: array += value; or an optimiser
    .sub_            with x.mutable() as array: array -= value; or an optimiser
    .mul_            with x.mutable() as array: array *= value
    .div_            with x.mutable() as array: array /= value
    .clamp_          with x.mutable() as array: array.clip(low, high, out=array)
    .normal_         nn.init.normal_(x)
    .uniform_        nn.init.uniform_(x)
    .add_module      setattr(model, name, module)
    .register_module setattr(model, name, module)
    .register_parameter      model.name = nn.Parameter(...)
    .register_buffer         model.name = nn.Buffer(...)
    .register_forward_hook   minidl.nn.module.observe(callback)
    .compile         minidl.capture(step), on a GPU
    .fit             minidl.training.fit(model, ...)
    .predict         minidl.training.predict(model, ...)
    .evaluate        minidl.training.evaluate(model, ...)
    .new_zeros       minidl.zeros(shape, dtype=x.dtype)
    .backwards       x.backward()
    .summary         minidl.inspect.summary(model, ...)
    tensor           minidl.Tensor(data)
    as_tensor        minidl.Tensor(data)
    from_numpy       minidl.Tensor(array), a copy; minidl.from_dlpack(array) shares memory
    FloatTensor      minidl.Tensor(data)
    LongTensor       minidl.Tensor(data, "int64")
    cat              minidl.concatenate([x, y], axis)
    relu_            F.relu(x)
    functional       from minidl import functional as F
    pad              minidl.pad(x, widths, mode=...)
    stack            minidl.stack(tensors, axis)
    eye              minidl.Tensor(np.eye(n))
    linspace         minidl.Tensor(np.linspace(start, stop, n))
    enable_grad      with recording on, as it is by default: leave no_grad()
    set_grad_enabled         with minidl.no_grad(): ...
    Variable         minidl.Tensor(data, requires_grad=True)
    tanh             x.tanh()
    exp              x.exp()
    log              x.log()
    sqrt             x.sqrt()
    abs              x.abs()
    sum              x.sum(axis)
    mean             x.mean(axis)
    max              x.max(axis)
    min              x.min(axis)
    matmul           x @ y
    mm               x @ y
    bmm              x @ y
    clamp            x.clip(low, high)
    argmax           x.numpy().argmax(axis)
    argsort          minidl.sort(x, axis)[1]
    one_hot          np.eye(classes)[labels]
    float32          the name "float32", or np.float32
    float64          the name "float64", or np.float64
    int64            the name "int64", or np.int64
    device           the name "cpu" or "cuda"
    cuda             the name "cuda", as in model.to("cuda")
    onnx             minidl.export_onnx(model, example, path)
    save             minidl.training.save_weights(model.state_dict(), path)
    load             minidl.training.load_weights(path)
    inference_mode   minidl.no_grad()
    autocast         float32, or minidl.set_tf32(True) on a GPU
    Adagrad          optim.RMSprop or optim.Adam
    lr_scheduler     optim.StepLR, optim.CosineAnnealingLR, ...
    clip_grad_norm_  optim.clip_grad_norm_(parameters, max_norm)
    utils            minidl.data for loaders; optim.clip_grad_norm_
    BCELoss          nn.BCEWithLogitsLoss(), on scores before the sigmoid
    binary_cross_entropy     F.binary_cross_entropy_with_logits, on scores before the sigmoid
    AdaptiveAvgPool1d        nn.GlobalAvgPool()
    Dropout2d        nn.Dropout(p)
    Dataset          two arrays: data.DataLoader(images, labels, batch_size=...)
    TensorDataset    two arrays: data.DataLoader(images, labels, batch_size=...)
    Subset           slices of the arrays
    random_split     slices of the arrays
"""

from __future__ import annotations

import functools
import sys
from typing import Any


def unknown(thing: Any, name: str) -> AttributeError:
    """Return the error for an unknown attribute, which says what to write for PyTorch's names.

    Args:
        thing: an object, or the name of a module of minidl.
        name: the attribute.
    """
    is_module = isinstance(thing, str)
    kind = f"module {thing!r}" if is_module else f"{type(thing).__name__!r} object"
    hint = _table().get(name if is_module else f".{name}")
    return AttributeError(
        f"{kind} has no attribute {name!r}" + (f"; in minidl, write {hint}" if hint else ""),
        name=name,
        obj=sys.modules.get(thing) if is_module else thing,
    )


@functools.cache
def _table() -> dict[str, str]:
    lines = (line.split(maxsplit=1) for line in (__doc__ or "").splitlines() if line[:4] == "    ")
    return {line[0]: line[1] for line in lines}
