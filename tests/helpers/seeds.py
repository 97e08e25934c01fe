"""A small valid file for each reader, how to read it, and how to repair its checksums."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import re
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minidl.data import Vocabulary, cifar10, load_image_folder, read_lines, read_table, toy10
from minidl.files.checkpoint import DIGEST, load_checkpoint, save_checkpoint
from minidl.files.weights import load_weights, save_weights

ROWS = 3  # in a batch of CIFAR-10, instead of 10,000


@dataclass(frozen=True)
class Seed:
    """A valid file of one format.

    Attributes:
        file: its name in an empty folder.
        content: its bytes.
        read: returns the content of the file at a path.
        repair: corrects the checksums of a mutated file, as far as its structure is intact.
        is_checked: whether checksums cover all of the content, so that unrepaired damage must
            either be noticed or not affect the content.
        others: valid files next to it, by name.
    """

    file: str
    content: bytes
    read: Callable[[Path], Any]
    repair: Callable[[bytes], bytes] | None = None
    is_checked: bool = False
    others: dict[str, bytes] = field(default_factory=dict)

    def write_others(self, path: Path) -> None:
        """Write the files that stay valid next to the file of a path."""
        for name, content in self.others.items():
            (path.parent / name).write_bytes(content)


# Files --------------------------------------------------------------------------------------------


def _saved(save: Callable[[Path], object], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        save(path)
        return path.read_bytes()


_STATE = {
    "0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "0.bias": np.array([1.5, -2.0], np.float32),
    "count": np.array(7, np.int64),
}
_RUN = {
    "model": _STATE,
    "epoch": 3,
    "history": {"train_loss": [1.0, 0.5], "name": None},
    "streams": [{"bit_generator": "PCG64", "state": {"state": 1 << 100, "inc": 5}}],
}


def _batch() -> dict[bytes, Any]:
    rng = np.random.default_rng(0)
    return {b"data": rng.integers(0, 9, (ROWS, 3072), np.uint8), b"labels": [1, 2, 3]}


def _archive(mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            content = pickle.dumps(_batch(), protocol=2)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _compressed_npz() -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **_STATE)
    return out.getvalue()


def _legacy() -> bytes:
    """Return a file of one tensor, in the format of `torch.save` before version 1.6."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    storage += b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06NtQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage
    tensor += b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtR"
    parts = [
        pickle.dumps(0x1950A86A20F9469CFC6C, 2),
        pickle.dumps(1001, 2),
        pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2),
        b"\x80\x02}X\x01\x00\x00\x00w" + tensor + b"s.",
        pickle.dumps(["0"], 2),
        struct.pack("<q", 6) + np.arange(6, dtype="<f4").tobytes(),
    ]
    return b"".join(parts)


def _picture(kind: str, mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind)
    return out.getvalue()


def _sixteen_bits() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.arange(108, dtype=np.uint16).reshape(9, 12) * 600).save(out, "PNG")
    return out.getvalue()


def _toy10() -> bytes:
    def save(path: Path) -> None:
        toy10.load_toy10(path.parent, train=20, test=10)

    return _saved(save, "toy10-seed0-20-10.npz")


# Reading ------------------------------------------------------------------------------------------


def _binary() -> bytes:
    """Return a batch of the binary layout: a label and 3,072 values a row."""
    rows = np.random.default_rng(0).integers(0, 9, (ROWS, 3073), np.uint8)
    return rows.tobytes()


def _read_folder(path: Path) -> Any:
    return _read_archive(path.parent)


def _read_archive(path: Path) -> Any:
    cifar10._BATCH_ROWS = ROWS
    return cifar10.load_cifar10(path)


def _read_shards(path: Path) -> Any:
    try:
        return load_weights(path)
    except FileNotFoundError as error:  # the index names a file that is not there
        raise ValueError(str(error)) from error


def _read_pictures(path: Path) -> Any:
    return load_image_folder(path.parent.parent, size=4, classes=[path.parent.name])


# Repair -------------------------------------------------------------------------------------------


def _sign(content: bytes) -> bytes:
    """Correct a checkpoint's SHA-256."""
    body = content[:-DIGEST]
    return body + hashlib.sha256(body).hexdigest().encode()


def _crc_of_zip(content: bytes) -> bytes:
    """Correct the CRC of each member of a zip file whose headers are intact."""
    out = bytearray(content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
    except Exception:
        return content
    places = [found.start() for found in re.finditer(b"PK\x01\x02", content)]
    for info, place in zip(members, places, strict=False):
        start = info.header_offset
        if not 0 <= start <= len(content) - 30 or place + 20 > len(content):
            continue
        name, extra = struct.unpack("<HH", content[start + 26 : start + 30])
        raw = content[start + 30 + name + extra :][: info.compress_size]
        try:
            data = zlib.decompressobj(-15).decompress(raw, 1 << 24) if info.compress_type else raw
        except zlib.error:
            continue
        crc = struct.pack("<I", zlib.crc32(data))
        out[start + 14 : start + 18] = crc
        out[place + 16 : place + 20] = crc
    return bytes(out)


def _crc_of_png(content: bytes) -> bytes:
    """Correct the CRC of each chunk of a PNG file."""
    out, at = bytearray(content), 8
    while at + 12 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        end = at + 8 + length
        if end + 4 > len(content):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(content[at + 4 : end]))
        at = end + 4
    return bytes(out)


def _checksums_of_tar(content: bytes) -> bytes:
    """Correct the checksum of each header of a tar file, as far as sizes are intact."""
    out, at = bytearray(content), 0
    while at + 512 <= len(content):
        header = bytearray(content[at : at + 512])
        if not any(header):
            break
        header[148:156] = b" " * 8
        out[at + 148 : at + 156] = b"%06o\0 " % sum(header)
        try:
            size = int(bytes(header[124:136]).strip(b"\0 ") or b"0", 8)
        except ValueError:
            break
        at += 512 + (size + 511) // 512 * 512
    return bytes(out)


def _gzip_of_repaired(content: bytes) -> bytes:
    return gzip.compress(_checksums_of_tar(content), 1, mtime=0)


_TAR = _archive("w")
_TABLE = 'text,label\nA good film,1\n"Bad, bad",0\n'

SEEDS: dict[str, Seed] = {
    "cifar batch": Seed(
        "data_batch_1", pickle.dumps(_batch(), protocol=2), cifar10.read_python_batch
    ),
    "cifar batch, protocol 4": Seed(
        "data_batch_1", pickle.dumps(_batch(), protocol=4), cifar10.read_python_batch
    ),
    "cifar .tar": Seed("cifar.tar", _TAR, _read_archive, _checksums_of_tar),
    "cifar .tar.gz": Seed(
        "cifar.tar.gz", gzip.compress(_TAR, mtime=0), _read_archive, is_checked=True
    ),
    "cifar .tar, then gzip": Seed("cifar.tar.gz", _TAR, _read_archive, _gzip_of_repaired),
    "cifar .bin": Seed(
        "data_batch_1.bin",
        _binary(),
        _read_folder,
        others={
            f"{name}.bin": _binary()
            for name in (*(f"data_batch_{i}" for i in range(2, 6)), "test_batch")
        },
    ),
    ".npz": Seed(
        "w.npz",
        _saved(lambda path: save_weights(_STATE, path), "w.npz"),
        load_weights,
        _crc_of_zip,
        is_checked=True,
    ),
    ".npz, compressed": Seed("w.npz", _compressed_npz(), load_weights, _crc_of_zip, True),
    ".safetensors": Seed(
        "w.safetensors",
        _saved(lambda path: save_weights(_STATE, path), "w.safetensors"),
        load_weights,
    ),
    "shards": Seed(
        "model.safetensors.index.json",
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(_STATE, "1.safetensors")}).encode(),
        _read_shards,
        others={"1.safetensors": _saved(lambda path: save_weights(_STATE, path), "w.safetensors")},
    ),
    ".pt": Seed(
        "w.pt",
        _saved(lambda path: save_weights(_STATE, path), "w.pt"),
        load_weights,
        _crc_of_zip,
        True,
    ),
    ".pt, legacy": Seed("w.pt", _legacy(), load_weights),
    "checkpoint": Seed(
        "last.npz",
        _saved(lambda path: save_checkpoint(_RUN, path), "last.npz"),
        load_checkpoint,
        lambda content: _sign(_crc_of_zip(content)),
        True,
    ),
    "png": Seed("1.png", _picture("PNG"), _read_pictures, _crc_of_png),
    "png, 16 bits": Seed("1.png", _sixteen_bits(), _read_pictures, _crc_of_png),
    "png, palette": Seed("1.png", _picture("PNG", "P"), _read_pictures, _crc_of_png),
    "jpeg": Seed("1.jpg", _picture("JPEG"), _read_pictures),
    "csv": Seed("t.csv", _TABLE.encode(), read_table),
    "tsv": Seed("t.tsv", b"text\tlabel\nA good film\tpos\nA bad film\tneg\n", read_table),
    "jsonl": Seed(
        "t.jsonl",
        b'{"text": "A good film", "label": 1}\n{"text": "A bad\\nfilm", "label": 0, "id": [{}]}\n',
        read_table,
    ),
    "lines": Seed("t.txt", "Good film\r\nBad film\n\xe9t\xe9\n".encode(), read_lines),
    "vocabulary": Seed(
        "v.json", json.dumps({"words": ["<pad>", "<unk>", "a", "film"]}).encode(), Vocabulary.load
    ),
    "toy10 cache": Seed(
        "toy10-seed0-20-10.npz",
        _toy10(),
        lambda path: toy10.load_toy10(path.parent, train=20, test=10),
        lambda content: _sign(_crc_of_zip(content)),
    ),
}
