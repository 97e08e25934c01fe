"""PyTorch's weight files: a pickle that describes tensors, and the bytes of their storages.

The pickle is read as data (`pickles.py`): functions of minidl replace those of PyTorch that create
tensors, and all objects other than the weights are skipped.
Source: torch/serialization.py, `_save` and `_legacy_save`; torch/_utils.py, `_rebuild_tensor_v2`.
"""

from __future__ import annotations

import io
import itertools
import math
import mmap
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from minidl.files.budget import Budget
from minidl.files.pickles import Global, Opaque, PickleReader, is_key
from minidl.files.safetensors import native
from minidl.files.zips import open_zip, read_member

_STORAGES = {
    "torch.FloatStorage": "f4", "torch.DoubleStorage": "f8", "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "u2", "torch.LongStorage": "i8", "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2", "torch.CharStorage": "i1", "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
    # Tensors of these may be stored next to the weights; as weights, they are refused by name.
    "torch.ComplexFloatStorage": "c8", "torch.ComplexDoubleStorage": "c16",
    "torch.QInt8Storage": "V1", "torch.QUInt8Storage": "V1", "torch.QInt32Storage": "V4",
    "torch.storage.UntypedStorage": "V1",
}  # fmt: skip
_HALF = ("torch.HalfStorage", "torch.BFloat16Storage")
_WRITTEN = {np.dtype(code): name for name, code in _STORAGES.items() if name not in _HALF}
_LARGEST_PICKLE = 64 << 20  # bytes; a network of 300 arrays takes 50,000
_LARGEST_EXPANSION = 64 << 20  # bytes that copies may take beyond the size of the file's storages
_ENTRIES = (  # usual names of the weights in a checkpoint; the first one found is read
    "state_dict", "model_state_dict", "model", "net", "network", "module", "params", "weights",
    "model_state", "net_state_dict", "state",
)  # fmt: skip
_MOST_SHOWN = 20  # names in a message
_NUMPY = ("multiarray._reconstruct", "numeric._frombuffer")  # functions that create NumPy arrays
_MOST_AXES = 64  # NumPy allows no more; the product of a million sizes would take hours
_MAGIC = 0x1950A86A20F9469CFC6C  # files older than the zip format begin with it


@dataclass(frozen=True)
class _Storage:
    """A run of `count` values, stored elsewhere in the file under a key."""

    kind: str
    key: str
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * np.dtype(_STORAGES[self.kind]).itemsize


@dataclass(frozen=True)
class _Tensor:
    """A tensor as a view of its storage. Offset and strides count values, not bytes."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    negative: bool = False  # PyTorch may negate lazily, by setting only this flag

    def __post_init__(self) -> None:
        geometry = (self.offset,), self.size, self.stride
        whole = all(
            isinstance(part, tuple) and len(part) <= _MOST_AXES and all(map(_is_count, part))
            for part in geometry
        )
        if not (
            isinstance(self.storage, _Storage) and whole and len(self.size) == len(self.stride)
        ):
            raise ValueError("a tensor needs a storage, and offset, sizes and strides >= 0")
        elements = math.prod(self.size)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        if elements and last >= self.storage.count:
            raise ValueError(
                f"a tensor of shape {self.size}, strides {self.stride} and offset {self.offset} "
                f"does not fit into its storage of {self.storage.count} values"
            )

    @property
    def copied(self) -> int:
        """How many values must be copied from the storage: all if expanded or negated, else 0."""
        elements, axes = math.prod(self.size), zip(self.size, self.stride, strict=True)
        expanded = elements > self.storage.count or any(n > 1 and not s for n, s in axes)
        return elements * (expanded or self.negative)

    def of(self, storage: NDArray[Any]) -> NDArray[Any]:
        """Return the array, a view of its storage; a copy if it is expanded or negated."""
        if 0 in self.size:
            return np.empty(self.size, storage.dtype)
        # The stride of an axis of size 1 is never used, and may have any value.
        steps = [s if n > 1 else 0 for n, s in zip(self.size, self.stride, strict=True)]
        array = np.lib.stride_tricks.as_strided(
            storage[self.offset :], self.size, [s * storage.itemsize for s in steps]
        )
        array = array.copy() if self.copied else array
        return np.negative(array) if self.negative else array


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63  # as in PyTorch; a pickle's have no limit


class ContentError(ValueError):
    """The file is not damaged, but does not hold what was asked for."""


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    """Return a dict, from a list of pairs if Python 2 pickled the OrderedDict."""
    if not all(isinstance(pair, list) and is_key(pair[0]) for pair in items):
        raise TypeError("an OrderedDict of something other than pairs")
    return dict(items)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> _Tensor | Opaque:
    if isinstance(storage, Opaque):
        return Opaque(f"torch._utils._rebuild_tensor_v2 from {storage.name}")
    marks = more[2] if len(more) > 2 and isinstance(more[2], dict) else {}
    return _Tensor(storage, offset, size, stride, marks.get("neg") is True)


_ADMITTED: dict[str, Callable[..., Any] | None] = {
    **dict.fromkeys(_STORAGES),
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "collections.defaultdict": lambda *_: {},
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
}


# Reading -----------------------------------------------------------------------------------------


def read_torch(file: BinaryIO, key: str | None = None) -> dict[str, NDArray[Any]]:
    """Read a state dict that `torch.save` wrote, as a zip file or in the format before version 1.6.

    Args:
        file: open for reading bytes, at its beginning.
        key: which entry of a checkpoint to read; None to look for the weights.

    Raises:
        ContentError: it holds no state dict, or several, or one with tensors that are not dense or
            not of a plain dtype.
        ValueError: the file is damaged.
        zipfile.BadZipFile: the file is damaged.
    """
    budget = Budget(os.fstat(file.fileno()).st_size)
    is_zip = file.read(2) == b"PK"
    file.seek(0)
    if is_zip:
        with open_zip(file, budget) as archive:
            return _read_zip(archive, budget, key)
    return _read_legacy(file, budget, key)


def _read_zip(archive: zipfile.ZipFile, budget: Budget, key: str | None) -> dict[str, NDArray[Any]]:
    sizes = {info.filename: info.file_size for info in archive.infolist()}
    pickles = [name for name in sizes if name.endswith("/data.pkl") and name.count("/") == 1]
    if any("/code/" in name for name in sizes):
        raise ContentError(
            "it is a TorchScript program, expected tensors by name: save model.state_dict()"
        )
    if len(pickles) != 1:
        raise ValueError("it is a zip file without exactly one data.pkl")
    if any(info.compress_type for info in archive.infolist()):
        raise ValueError("its members are compressed, which PyTorch never does: is it a zip bomb?")
    root = pickles[0].removesuffix("data.pkl")
    if sizes[pickles[0]] > _LARGEST_PICKLE:
        raise ValueError(f"its data.pkl has more than {_LARGEST_PICKLE} bytes")
    order = archive.read(root + "byteorder") if root + "byteorder" in sizes else b"little"
    if order not in (b"little", b"big"):
        raise ValueError(f"its byte order is {order[:20]!r}, expected little or big")

    def read(storage: _Storage) -> NDArray[np.uint8]:
        name = f"{root}data/{storage.key}"
        _check_size(storage, sizes.get(name, 0))
        return read_member(archive, name, storage.nbytes)

    views = _select_state_dict(
        _Reader(sizes[pickles[0]]).read(io.BytesIO(archive.read(pickles[0]))), key
    )
    return _arrays(views, read, "<" if order == b"little" else ">", budget)


def _read_legacy(file: BinaryIO, budget: Budget, key: str | None) -> dict[str, NDArray[Any]]:
    """Read the older format: pickles one after another, then storages, each after its count."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        reader = _Reader(len(content))
        if content[:2] != b"\x80\x02" or reader.read(content) != _MAGIC:
            raise ValueError("it is neither a zip file nor an older PyTorch file")
        version, system = reader.read(content), reader.read(content)
        if version != 1001 or not (
            isinstance(system, dict) and system.get("little_endian") is True
        ):
            raise ValueError("it needs version 1001 and little-endian values")
        loaded, keys, reached = reader.read(content), reader.read(content), content.tell()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("it needs a list of its storages' keys")
    views, places = _select_state_dict(loaded, key), dict[str, int]()
    for name in keys:
        file.seek(reached)
        count, storage = int.from_bytes(file.read(8), "little"), reader.storages.get(name)
        if storage is None or count != storage.count or name in places:
            raise ValueError(
                f"storage {name:.40} belongs to no tensor, or its size differs from the pickle's"
            )
        places[name], reached = reached + 8, reached + 8 + storage.nbytes
    if reached < budget.size:
        raise ValueError(f"it has {budget.size - reached} bytes after its storages")

    def read(storage: _Storage) -> NDArray[np.uint8]:
        place = places.get(storage.key, budget.size)
        _check_size(storage, max(0, min(storage.nbytes, budget.size - place)))
        file.seek(place)
        return np.fromfile(file, np.uint8, storage.nbytes)

    return _arrays(views, read, "<", budget)


def _check_size(storage: _Storage, size: int) -> None:
    if size != storage.nbytes:
        raise ValueError(f"storage {storage.key:.40}: got {size} bytes, expected {storage.nbytes}")


def _select_state_dict(loaded: Any, key: str | None) -> dict[str, _Tensor]:
    """Return the tensors by name, from a state dict or a checkpoint that holds one."""
    if not isinstance(loaded, dict):
        raise ContentError(
            f"it holds a {_made_by(loaded):.80}, expected tensors by name: save model.state_dict()"
        )
    found = dict(itertools.islice(_state_dicts(loaded, "", set()), _MOST_SHOWN))
    best = min(map(_rank, found), default=0)
    names = [path for path in found if (_rank(path) == best if key is None else path == key)]
    if len(names) > 1:  # single numbers, such as the best loss, stand beside the weights
        large = [path for path in names if any(map(_has_axes, found[path].values()))]
        names = large if key is None and large else names
    if not found:
        shown = itertools.islice(loaded.items(), _MOST_SHOWN)
        held = ", ".join(f"{name!r:.40} ({_made_by(value):.40})" for name, value in shown)
        raise ContentError(
            f"it holds {held or 'nothing'}, no dense tensors: save model.state_dict()"
        )
    if len(names) != 1:
        held = ", ".join(map(repr, found))
        raise ContentError(f"it holds tensors as {held}; choose with load_weights(path, key=...)")
    for name, value in found[names[0]].items():
        made = _made_by(value)
        if not isinstance(name, str) or "._rebuild" in made or made.endswith(_NUMPY):
            raise ContentError(
                f"its entry {name!r:.80} is made by {made:.80}, expected a name and a dense tensor "
                "of a plain dtype: convert it in PyTorch (dequantize, to_dense, from_numpy)"
            )
    return {name: view for name, view in found[names[0]].items() if isinstance(view, _Tensor)}


def _has_axes(value: Any) -> bool:
    return isinstance(value, _Tensor) and len(value.size) > 0


def _made_by(value: Any) -> str:
    return value.name if isinstance(value, Opaque) else type(value).__name__.strip("_").lower()


def _state_dicts(
    entries: dict[Any, Any], path: str, seen: set[int]
) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Yield all dicts that hold tensors, except optimisers' states, with their dotted names."""
    if id(entries) in seen or {"state", "param_groups"} <= entries.keys():
        return
    seen.add(id(entries))
    if any(isinstance(value, _Tensor) for value in entries.values()):
        yield path, entries
    for name, value in entries.items():
        if isinstance(value, dict):
            yield from _state_dicts(value, f"{path}.{name!s:.40}".lstrip("."), seen)


def _rank(path: str) -> int:
    """Return the smallest index in `_ENTRIES` of any part of a dotted name."""
    return min([len(_ENTRIES)] + [_ENTRIES.index(n) for n in path.split(".") if n in _ENTRIES])


def _arrays(
    views: Mapping[str, _Tensor],
    read: Callable[[_Storage], NDArray[np.uint8]],
    order: Literal["<", ">"],
    budget: Budget,
) -> dict[str, NDArray[Any]]:
    """Return the arrays by name, after reading each storage once."""
    copies = sum(
        view.copied * np.dtype(_STORAGES[view.storage.kind]).itemsize for view in views.values()
    )
    if copies > sum(s.nbytes for s in {v.storage for v in views.values()}) + _LARGEST_EXPANSION:
        raise ValueError(f"its expanded tensors would take {copies} bytes")
    storages: dict[_Storage, NDArray[Any]] = {}
    for storage in {view.storage: None for view in views.values()}:
        array = read(storage).view(np.dtype(_STORAGES[storage.kind]).newbyteorder(order))
        storages[storage] = native(array, brain=storage.kind == "torch.BFloat16Storage")
    return {name: view.of(storages[view.storage]) for name, view in views.items()}


class _Reader(PickleReader):
    """Reads numbers, strings, tuples, lists, dicts and tensors; all else becomes `Opaque`."""

    what = "state dict"
    admitted = _ADMITTED
    refusal = None
    text = True

    def __init__(self, size: int) -> None:
        super().__init__(Budget(size, growth=2))
        self.storages: dict[str, _Storage] = {}  # found so far

    def refer(self, identity: Any) -> _Storage | Opaque:
        """Return the storage of `("storage", kind, key, device, count)`; older files add None."""
        match identity:
            case ("storage", Global(kind), str(key), _, count) | (
                "storage", Global(kind), str(key), _, count, None,
            ) if kind in _STORAGES and _is_count(count):  # fmt: skip
                found = _Storage(kind, key, count)
                if self.storages.setdefault(key, found) != found:
                    raise ValueError(f"storage {key:.40} has two different descriptions")
                return found
            case ("storage" | "module", Global(kind), *_) if kind not in _STORAGES:
                return Opaque(kind)  # older files of whole models refer to classes
        raise ValueError("its pickle refers to something other than the storage of a plain tensor")

    def build(self, value: Any, state: Any) -> Any:
        """Return a value with its state set; a tensor's state is ignored."""
        return value if isinstance(value, _Tensor) else super().build(value, state)


# Writing -----------------------------------------------------------------------------------------


def write_torch(file: BinaryIO, state: Mapping[str, NDArray[Any]]) -> None:
    """Write a state dict as a zip file that `torch.load` reads, even with `weights_only=True`."""
    with zipfile.ZipFile(file, "w") as archive:

        def write(name: str, content: bytes) -> None:
            archive.writestr(zipfile.ZipInfo("archive/" + name), content)

        write("data.pkl", _pickled(state))
        write("byteorder", b"little")
        for number, array in enumerate(state.values()):
            write(f"data/{number}", array.astype(array.dtype.newbyteorder("<")).tobytes())
        write("version", b"3\n")


def _pickled(state: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the pickle of an OrderedDict of tensors, made without PyTorch."""

    def code(value: Any) -> bytes:
        return pickletools.optimize(pickle.dumps(value, 2))[2:-1]  # without header and end

    ordered_dict = b"ccollections\nOrderedDict\n)R"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(("
    parts = [b"\x80\x02", ordered_dict, b"("]
    for number, (name, array) in enumerate(state.items()):
        shape = array.shape
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        kind = _WRITTEN[array.dtype.newbyteorder("=")].replace(".", "\n")
        storage = code("storage") + f"c{kind}\n".encode() + code(str(number)) + code("cpu")
        parts += [code(name), tensor, storage, code(array.size), b"tQ"]
        parts += [code(0), code(shape), code(strides), code(False), ordered_dict, b"tR"]
    return b"".join((*parts, b"u."))
