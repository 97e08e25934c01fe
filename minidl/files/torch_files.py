"""PyTorch's weight files: a pickle that describes tensors, and the bytes of their storages.

The pickle is read as data (`pickles.py`): functions of minidl replace the few of PyTorch that it
names.
Source: torch/serialization.py, `_save` and `_legacy_save`; torch/_utils.py, `_rebuild_tensor_v2`.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from minidl.files.pickles import Global, PickleReader
from minidl.files.safetensors import half_to_single

_STORAGES = {
    "torch.FloatStorage": "f4", "torch.DoubleStorage": "f8", "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "u2", "torch.LongStorage": "i8", "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2", "torch.CharStorage": "i1", "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
}  # fmt: skip
_HALF = ("torch.HalfStorage", "torch.BFloat16Storage")
_WRITTEN = {np.dtype(code): name for name, code in _STORAGES.items() if name not in _HALF}
_LARGEST_PICKLE = 64 << 20  # bytes; a network of 300 arrays takes 50,000
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
class _View:
    """A tensor as a view of its storage. Offset and strides count values, not bytes."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

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
        if elements and max(last + 1, elements) > self.storage.count:
            raise ValueError(
                f"a tensor of shape {self.size}, strides {self.stride} and offset {self.offset} "
                f"does not fit into its storage of {self.storage.count} values"
            )

    def of(self, storage: NDArray[Any]) -> NDArray[Any]:
        """Return the array; tensors of one storage share its memory."""
        if 0 in self.size:
            return np.empty(self.size, storage.dtype)
        # The stride of an axis of size 1 is never used, and may have any value.
        steps = [s if n > 1 else 0 for n, s in zip(self.size, self.stride, strict=True)]
        return np.lib.stride_tricks.as_strided(
            storage[self.offset :], self.size, [s * storage.itemsize for s in steps]
        )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63  # as in PyTorch; a pickle's have no limit


def _ordered_dict() -> dict[Any, Any]:
    return {}


def _tensor(*arguments: Any) -> _View:
    return _View(*arguments[:4])


def _parameter(tensor: Any, *_: Any) -> _View:
    if not isinstance(tensor, _View):
        raise TypeError("a parameter without a tensor")
    return tensor


_ADMITTED: dict[str, Callable[..., Any] | None] = {
    **dict.fromkeys(_STORAGES),
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}


# Reading -----------------------------------------------------------------------------------------


def read_torch(file: BinaryIO) -> dict[str, NDArray[Any]]:
    """Read a state dict that `torch.save` wrote, as a zip file or in the format before version 1.6.

    If a checkpoint holds it as `"state_dict"` or `"model"`, that entry is read.

    Raises:
        ValueError: the file is damaged, or asks for anything but tensors of plain dtypes.
        zipfile.BadZipFile: the file is damaged.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return _read_zip(archive, os.fstat(file.fileno()).st_size)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _read_legacy(content)


def _read_zip(archive: zipfile.ZipFile, size: int) -> dict[str, NDArray[Any]]:
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1 or len(members) != len(archive.infolist()):
        raise ValueError(
            "it is a zip file without exactly one data.pkl, or with a duplicate member"
        )
    total = sum(info.file_size for info in members.values())
    if total > size or any(info.compress_type for info in members.values()):
        raise ValueError(
            f"its members are compressed or claim more than the file has, {total} bytes of {size}; "
            "PyTorch writes no such file: is it a zip bomb?"
        )
    root = pickles[0].removesuffix("data.pkl")
    if members[pickles[0]].file_size > _LARGEST_PICKLE:
        raise ValueError(f"its data.pkl has more than {_LARGEST_PICKLE} bytes")
    order = archive.read(root + "byteorder") if root + "byteorder" in members else b"little"
    if order not in (b"little", b"big"):
        raise ValueError(f"its byte order is {order[:20]!r}, expected little or big")

    views = _chosen(_Reader().read(io.BytesIO(archive.read(pickles[0]))))
    storages = {view.storage.key: f"{root}data/{view.storage.key}" for view in views.values()}
    contents = {key: archive.read(name) for key, name in storages.items() if name in members}
    return _arrays(views, contents, "<" if order == b"little" else ">")


def _read_legacy(file: mmap.mmap) -> dict[str, NDArray[Any]]:
    """Read the older format: pickles one after another, then storages, each after its count."""
    reader = _Reader()
    if file[:2] != b"\x80\x02" or reader.read(file) != _MAGIC:
        raise ValueError("it is neither a zip file nor an older PyTorch file")
    version, system = reader.read(file), reader.read(file)
    if version != 1001 or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("it needs version 1001 and little-endian values")
    views, keys = _chosen(reader.read(file)), reader.read(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("it needs a list of its storages' keys")
    contents = {}
    for key in keys:
        count, storage = int.from_bytes(file.read(8), "little"), reader.storages.get(key)
        if storage is None or count != storage.count:
            raise ValueError(
                f"storage {key:.40} belongs to no tensor, or has another size in the pickle"
            )
        contents[key] = file.read(storage.nbytes)
    return _arrays(views, contents, "<")


def _chosen(loaded: Any) -> dict[str, _View]:
    """Return the tensors by name, from a state dict or a checkpoint that holds one."""
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__.strip('_')}, expected tensors by name")
    for name, value in loaded.items():
        if not (isinstance(name, str) and isinstance(value, _View)):
            raise ValueError(
                f"its entry {name!r:.40} has type {type(value).__name__}, expected a tensor: "
                "save model.state_dict()"
            )
    return loaded


def _arrays(
    views: Mapping[str, _View], contents: Mapping[str, bytes], order: Literal["<", ">"]
) -> dict[str, NDArray[Any]]:
    storages: dict[_Storage, NDArray[Any]] = {}
    for storage in {view.storage: None for view in views.values()}:
        content, dtype = contents.get(storage.key, b""), np.dtype(_STORAGES[storage.kind])
        if len(content) != storage.nbytes:
            raise ValueError(
                f"storage {storage.key:.40}: got {len(content)} bytes, expected {storage.nbytes}"
            )
        array = np.frombuffer(bytearray(content), dtype.newbyteorder(order))
        array = array.astype(dtype, copy=False)
        if storage.kind in _HALF:
            array = half_to_single(array, storage.kind == "torch.BFloat16Storage")
        storages[storage] = array
    return {name: view.of(storages[view.storage]) for name, view in views.items()}


class _Reader(PickleReader):
    """Reads numbers, strings, tuples, lists, dicts, and tensors as views."""

    what = "state dict"
    admitted = _ADMITTED
    refusal = (
        "its pickle asks for {}; weights need only tensors of plain dtypes: save "
        "model.state_dict(), and otherwise do not trust this file"
    )

    def __init__(self) -> None:
        self.storages: dict[str, _Storage] = {}  # found so far

    def refer(self, identity: Any) -> _Storage:
        """Return the storage of `("storage", kind, key, device, count)`; older files add None."""
        match identity:
            case ("storage", Global(kind), str(key), _, count) | (
                "storage", Global(kind), str(key), _, count, None,
            ) if kind in _STORAGES and _is_count(count):  # fmt: skip
                self.storages[key] = _Storage(kind, key, count)
                return self.storages[key]
        raise ValueError("its pickle refers to something other than the storage of a plain tensor")


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
