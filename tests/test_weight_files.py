"""Weight files of each format: written, read, exchanged with other libraries, and hostile ones.

What `test_training.py` says of saving holds for all formats; here is what sets them apart.
"""

import argparse
import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from minidl import models, nn
from minidl.files import torch_files, weights
from minidl.training import load_weights, save_weights

SUFFIXES = [".npz", ".safetensors", ".pt", ".pth"]
DTYPES = ["f4", "f8", "i1", "i2", "i4", "i8", "u1", "?"]  # those that every format holds


def same(found, wanted):
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


# Written and read ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_network_comes_back_bit_for_bit(suffix, tmp_path):
    def net():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))

    model, other = net(), net()
    path = save_weights(model.state_dict(), tmp_path / f"net{suffix}")
    same(load_weights(path), model.state_dict())
    other.load_state_dict(load_weights(path))
    same(other.state_dict(), model.state_dict())


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(
    arrays=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0/\\"), min_size=1, max_size=9),
        st.sampled_from(DTYPES).flatmap(
            lambda code: np_st.arrays(code, np_st.array_shapes(min_dims=0, min_side=0, max_side=4))
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_arrays_come_back_bit_for_bit(suffix, arrays, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    same(load_weights(save_weights(arrays, path)), arrays)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_views_and_foreign_byte_order_are_saved_as_their_values(suffix, tmp_path):
    whole = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    state = {"t": whole.T, "step": whole[:, ::2], "big": whole.astype(">f4"), "file": whole}
    found = load_weights(save_weights(state, tmp_path / f"views{suffix}"))
    for name, array in state.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_loaded_arrays_can_be_written_to(suffix, tmp_path):
    path = save_weights({"w": np.ones(3), "flag": np.array(True)}, tmp_path / f"w{suffix}")
    for array in load_weights(path).values():
        array[...] = 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_saving_refuses_what_a_format_does_not_hold(suffix, tmp_path):
    path = tmp_path / f"w{suffix}"
    for code in ("f2", "c8", "O", "U3"):
        with pytest.raises(ValueError, match=rf"got w of dtype .*, which {suffix} files"):
            save_weights({"w": np.ones(2).astype(code)}, path)
    if suffix in (".pt", ".pth"):
        with pytest.raises(ValueError, match=r"got w of dtype uint32, which \.pth? files"):
            save_weights({"w": np.ones(2, np.uint32)}, path)
    with pytest.raises(TypeError, match=r"got a list as 'w', expected NumPy arrays by name"):
        save_weights({"w": [1.0]}, path)
    assert not path.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["__metadata__", "a\0b"])
def test_saving_refuses_names_that_would_not_come_back(name, suffix, tmp_path):
    with pytest.raises(ValueError, match=r"save_weights: got an array named '.*; rename it"):
        save_weights({name: np.ones(3)}, tmp_path / f"weights{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["w.th", "w.bin", "w.ckpt", "w.pth.tar", "w.PT", "w"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_the_content_decides_where_the_ending_does_not(suffix, name, tmp_path):
    state = {"w": np.arange(6.0).reshape(2, 3)}
    path = save_weights(state, tmp_path / f"weights{suffix}").rename(tmp_path / name)
    same(load_weights(path), state)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "a pointer of Git LFS; fetch",
        ),
        (b"\n<!DOCTYPE html><html>", "a web page; download the file itself"),
        (b"<html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
        (b"\x1f\x8b\x08\0", "compressed by gzip; unpack it first"),
        (b"\x93NUMPY\x01\0", "a single array of NumPy; save arrays by name"),
        (pickle.dumps({"w": np.ones(2)}, 4), "a pickle, which may run anything"),
        (pickle.dumps({"w": np.ones(2)}, 5), "a pickle, which may run anything"),
    ],
)
@pytest.mark.parametrize("suffix", [*SUFFIXES, ".bin"])
def test_what_is_no_weights_file_is_named(suffix, content, message, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"load_weights: .*{suffix}: it is {message}"):
        load_weights(path)


def test_a_header_whose_length_looks_like_another_format_is_read(tmp_path):
    header = json.dumps({"w": entry("F32", [2], 0, 8)}).encode()
    header += b" " * (0x8B1F - len(header))  # its length begins like a gzip file
    found = load_weights(safetensors_file(tmp_path, header, bytes(8)))
    same(found, {"w": np.zeros(2, np.float32)})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_truncation_is_refused(suffix, tmp_path):
    path = save_weights({"w": np.ones(9), "b": np.ones(2)}, tmp_path / f"w{suffix}")
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(
            ValueError, match=rf"is not a {suffix} file of plain arrays, or is damaged"
        ):
            load_weights(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_changed_byte_is_refused_or_changes_values_only(suffix, tmp_path):
    """Nothing but a ValueError may come of damage; what the formats check is up to them."""
    path = save_weights({"w": np.ones(9), "b": np.ones(2, bool)}, tmp_path / f"w{suffix}")
    content = bytearray(path.read_bytes())
    refused = 0
    for place in range(0, len(content), 3):
        for value in (0, 255, content[place] ^ 1):
            path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            try:
                load_weights(path)
            except ValueError:
                refused += 1
    assert refused > len(content) / 10


def test_half_precision_is_read_as_float32(tmp_path):
    values = np.array([0, -1.5, np.inf, 2**-24, 65504], np.float16)
    np.savez(tmp_path / "w.npz", w=values)
    found = load_weights(tmp_path / "w.npz")["w"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values)

    entries = {"w": entry("F16", [5], 0, 10), "b": entry("BF16", [], 10, 12)}
    path = safetensors_file(tmp_path, entries, values.tobytes() + b"\xc0\xbf")
    assert load_weights(path)["b"] == np.array(-1.5, np.float32)
    np.testing.assert_array_equal(load_weights(path)["w"], values)
    brain = np.array([1, -2.5, 3e38, 1e-40], np.float32).view(np.uint32) >> 16  # cut off: bfloat16
    data = brain.astype("<u2").tobytes()
    path = safetensors_file(tmp_path, {"w": entry("BF16", [4], 0, 8)}, data)
    np.testing.assert_array_equal(load_weights(path)["w"], (brain << 16).view(np.float32))


# Other libraries ----------------------------------------------------------------------------------


def torch_state(torch):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = net.state_dict()
    shared = torch.randn(4, 6)
    state |= {
        "half": torch.randn(5).half(),
        "brain": torch.randn(5).bfloat16(),
        "turned": shared.t(),
        "part": shared[1:3, ::2],
        "tied": shared,
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "empty": torch.empty(0, 3),
        "flag": torch.tensor(True),
        **{f"{d}": torch.arange(5).to(d) for d in (torch.int8, torch.int32, torch.float64)},
    }
    return state


def as_numpy(tensor):
    return (tensor.float() if tensor.dtype.itemsize == 2 else tensor).detach().numpy()


@pytest.mark.oracle
@pytest.mark.parametrize(
    "options",
    [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}],
    ids=["zip", "legacy", "protocol 4"],
)
def test_files_of_torch_are_read(options, tmp_path):
    torch = pytest.importorskip("torch")
    state = torch_state(torch)
    torch.save(state, tmp_path / "net.pt", **options)
    found = load_weights(tmp_path / "net.pt")
    same(found, {name: as_numpy(tensor) for name, tensor in state.items()})
    assert np.shares_memory(found["turned"], found["tied"])


@pytest.mark.oracle
@pytest.mark.parametrize("key", ["state_dict", "model"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_torch_gives_its_state_dict(key, zipped, tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    adam.step()
    checkpoint = {"optimizer": adam.state_dict(), "epoch": 3, key: net.state_dict(), "best": 91.5}
    torch.save(checkpoint, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    wanted = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    same(load_weights(tmp_path / "net.pth"), wanted)


@pytest.mark.oracle
def test_big_endian_files_of_torch_are_read(tmp_path):
    """As torch reads them: the storages' bytes are swapped, and the file says so."""
    torch = pytest.importorskip("torch")
    state = {"w": torch.randn(3, 2), "n": torch.arange(3)}
    torch.save(state, tmp_path / "little.pt")
    with zipfile.ZipFile(tmp_path / "little.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, dtype in (("data/0", ">f4"), ("data/1", ">i8")):
        values = np.frombuffer(members[f"little/{name}"], dtype.replace(">", "<"))
        members[f"little/{name}"] = values.astype(dtype).tobytes()
    with zipfile.ZipFile(tmp_path / "big.pt", "w") as archive:
        for name, content in (members | {"little/byteorder": b"big"}).items():
            archive.writestr(name, content)
    assert all(torch.equal(t, state[n]) for n, t in torch.load(tmp_path / "big.pt").items())
    same(load_weights(tmp_path / "big.pt"), {name: t.numpy() for name, t in state.items()})


@pytest.mark.oracle
@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_our_files(mmap, tmp_path):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    state = {f"layer.{code}": (9 * rng.random((2, 3, 4))).astype(code) for code in DTYPES}
    state |= {"none": np.ones((0, 3)), "number": np.array(7), "ümlaut": np.ones(300, np.float32)}
    path = save_weights(state, tmp_path / "net.pt")
    found = torch.load(path, weights_only=True, mmap=mmap)
    assert isinstance(found, OrderedDict)
    assert list(found) == list(state)
    same({name: tensor.numpy() for name, tensor in found.items()}, state)
    assert all(tensor.is_contiguous() for tensor in found.values())


@pytest.mark.oracle
def test_a_network_of_torch_takes_our_weights_and_gives_its_own(tmp_path):
    torch = pytest.importorskip("torch")
    model = models.cifar10_cnn()
    theirs = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        *(torch.nn.Conv2d(32, 64, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        *(torch.nn.Conv2d(64, 64, 3), torch.nn.ReLU(), torch.nn.Flatten()),
        *(torch.nn.Linear(1024, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)),
    )
    # What akamaster/pytorch_resnet_cifar10 publishes is of this kind.
    checkpoint = {"state_dict": torch.nn.DataParallel(theirs).state_dict(), "best_prec1": 91.7}
    torch.save(checkpoint, tmp_path / "theirs.pth", _use_new_zipfile_serialization=False)
    model.load_state_dict(load_weights(tmp_path / "theirs.pth"))
    same(model.state_dict(), {name: t.numpy() for name, t in theirs.state_dict().items()})
    other = models.cifar10_cnn()
    theirs.load_state_dict(torch.load(save_weights(other.state_dict(), tmp_path / "ours.pth")))
    same(other.state_dict(), {name: t.numpy() for name, t in theirs.state_dict().items()})


@pytest.mark.oracle
def test_the_safetensors_library_writes_the_same_bytes(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    codes = [*DTYPES, "u2", "u4", "u8"]
    state = {f"{n}.{code}": (9 * rng.random((2, 3))).astype(code) for n, code in enumerate(codes)}
    state |= {"none": np.ones((0, 3)), "number": np.array(7), 'quoted "ümlaut"\n': np.ones(3)}
    ours = save_weights(state, tmp_path / "ours.safetensors")
    library.save_file(state, tmp_path / "theirs.safetensors")
    assert ours.read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    same(library.load_file(ours), state)


@pytest.mark.oracle
def test_files_of_the_safetensors_library_are_read(tmp_path):
    torch, library = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    state = {
        name: tensor.detach().clone().contiguous() for name, tensor in torch_state(torch).items()
    }
    library.save_file(state, tmp_path / "net.safetensors", metadata={"format": "pt"})
    found = load_weights(tmp_path / "net.safetensors")
    same(found, {name: as_numpy(tensor) for name, tensor in state.items()})


@pytest.mark.skipif("MINIDL_WEIGHTS" not in os.environ, reason="MINIDL_WEIGHTS names no folder")
def test_real_weights_are_the_same_in_both_formats():
    folder = os.environ["MINIDL_WEIGHTS"]
    found = load_weights(f"{folder}/resnet20_cifar10.safetensors")
    assert len(found) == 97
    same(found, load_weights(f"{folder}/resnet20_cifar10.npz"))


# Hostile and damaged safetensors ------------------------------------------------------------------


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_file(folder, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "weights.safetensors"
    length = len(text) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + text + data)
    return path


ONE, TWO = entry("F32", [2], 0, 8), entry("F32", [2], 8, 16)
WRONG_HEADERS = {
    "huge header": (b"{}", 2**63, r"its header claims 9223372036854775808 bytes in a file of 26"),
    "no JSON": (b"weights!", None, r"or is damaged \(Expecting value"),
    "no text": (b"\xff\xfe", None, r"can't decode"),
    "not an object": ([1], None, r"its header is a list, expected an object"),
    "nested deeply": (b"[" * 50_000, None, r"JSON is nested too deeply"),
    "a name twice": (b'{"w": 1, "w": 2}', None, r"an object has a duplicate name"),
    "a key more": (
        {"w": ONE | {"x": 1}},
        None,
        r"w needs dtype, shape and data_offsets, and noth",
    ),
    "an unknown dtype": (
        {"w": entry("F8_E4M3", [8], 0, 8)},
        None,
        r"has dtype 'F8_E4M3', expected",
    ),
    "a dtype of lists": (
        {"w": entry([], [8], 0, 8)},
        None,
        r"w has dtype \[\], expected one of BOOL",
    ),
    "a negative shape": (
        {"w": entry("F32", [-2], 0, 8)},
        None,
        r"w has shape \[-2\], expected integers",
    ),
    "a fraction": (
        {"w": entry("F32", [2.0], 0, 8)},
        None,
        r"w has shape \[2.0\], expected integers",
    ),
    "a truth": (
        {"w": entry("F32", [True], 0, 4)},
        None,
        r"w has shape \[True\], expected integers",
    ),
    "65 axes": ({"w": entry("F32", [1] * 65, 0, 4)}, None, r"w has shape .* expected integers"),
    "three offsets": ({"w": ONE | {"data_offsets": [0, 8, 9]}}, None, r"\[0, 8, 9\], expected two"),
    "backwards": (
        {"w": entry("F32", [2], 8, 0)},
        None,
        r"w takes bytes 8 to 0, expected 8 for F32",
    ),
    "another size": (
        {"w": entry("F32", [3], 0, 16)},
        None,
        r"takes bytes 0 to 16, expected 12 for F",
    ),
    "more than there is": (
        {"w": entry("F32", [2**40], 0, 2**42)},
        None,
        r"its arrays take 4398046511104 bytes, expected the 16 after the header",
    ),
    "overlap": ({"v": ONE, "w": entry("F32", [3], 4, 16)}, None, r"an overlap before w: it begins"),
    "the same place": (
        {"v": ONE, "w": ONE},
        None,
        r"an overlap before w: it begins at 0, expected 8",
    ),
    "a gap": ({"v": TWO}, None, r"a gap before v: it begins at 8, expected 0"),
    "bytes left over": (
        {"v": ONE},
        None,
        r"its arrays take 8 bytes, expected the 16 after the header",
    ),
}


@pytest.mark.parametrize(("header", "length", "message"), WRONG_HEADERS.values(), ids=WRONG_HEADERS)
def test_a_hostile_safetensors_file_is_refused(header, length, message, tmp_path):
    path = safetensors_file(tmp_path, header, bytes(16), length)
    with pytest.raises(
        ValueError, match=rf"load_weights: .*weights\.safetensors is not a .*{message}"
    ):
        load_weights(path)


def test_a_header_of_a_sparse_file_is_not_read_into_memory(tmp_path):
    path = tmp_path / "weights.safetensors"
    with path.open("wb") as file:
        file.write((2**40).to_bytes(8, "little"))
        file.truncate(2**40 + 8)  # takes no room on the disk
    with pytest.raises(ValueError, match=r"claims 1099511627776 bytes, expected at most 16777216"):
        load_weights(path)


@pytest.mark.parametrize("values", ["[]," * 700_000, '"a",' * 600_000])
def test_a_header_of_more_values_than_any_network_needs_is_refused(values, tmp_path):
    path = safetensors_file(tmp_path, b'{"__metadata__":[' + values.encode() + b"0]}")
    with pytest.raises(ValueError, match=r"JSON of [\d,]+ values, .* at most 524,288 values"):
        load_weights(path)


def test_values_of_a_bool_are_0_or_1(tmp_path):
    path = safetensors_file(tmp_path, {"w": entry("BOOL", [3], 0, 3)}, b"\0\1\xff")
    assert load_weights(path)["w"].view(np.uint8).tolist() == [0, 1, 1]


# Hostile and damaged files of PyTorch -------------------------------------------------------------


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def torch_file(folder, changes=None, *, pickled=None, compression=zipfile.ZIP_STORED, twice=False):
    """A file with two arrays; `changes` replaces members, `pickled` bytes within its pickle."""
    state = {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": np.ones(4)}
    path = save_weights(state, folder / "weights.pt")
    members = members_of(path) | {f"archive/{n}": c for n, c in (changes or {}).items()}
    for old, new in (pickled or {}).items():
        assert old in members["archive/data.pkl"]
        members["archive/data.pkl"] = members["archive/data.pkl"].replace(old, new)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)
        if twice:
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr("archive/data/0", bytes(24))
    return path


class Run:
    """Pickled, it asks for a program to be run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


FLOATS = b"ctorch\nFloatStorage\n"
STRIDES = b"K\x02K\x03\x86K\x03K\x01\x86"  # (2, 3), (3, 1)
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
WRONG_PICKLES = {
    "a forbidden global": (
        {FLOATS: b"cbuiltins\neval\n"},
        r"its entry 'w' is made by torch._utils._rebuild_tensor_v2 from builtins\.eval, expected a",
    ),
    "one by STACK_GLOBAL": (
        {FLOATS: b"X\x02\0\0\0osX\x06\0\0\0system\x93"},
        r"its entry 'w' is made by torch._utils._rebuild_tensor_v2 from os\.system, expected a",
    ),
    "one without a name": (
        {FLOATS: b"K\x01K\x02\x93"},
        r"its pickle uses STACK_GLOBAL, which no st",
    ),
    "bits": ({FLOATS: b"ctorch\nBits8Storage\n"}, r"its entry .* from torch.Bits8Storage, "),
    "a tensor in pieces": (
        {REBUILD: b"ctorch._utils\n_rebuild_sparse_tensor\n"},
        r"it holds 'w' \(torch\._utils\._rebuild_sparse_tensor\), .*, no dense tensors: save",
    ),
    "another instruction": (
        {FLOATS: b"(ios\nsystem\n"},
        r"its pickle uses INST, which no state di",
    ),
    "an extension": ({FLOATS: b"\x82\x01"}, r"its pickle uses EXT1, which no state dict needs"),
    "an object made": ({FLOATS: FLOATS + b")\x81"}, r"its pickle uses NEWOBJ, which no state dict"),
    "a global changed": ({FLOATS: FLOATS + b"}b"}, r"its pickle sets attributes of a Global"),
    "a storage called": ({FLOATS: FLOATS + b")R"}, r"uses REDUCE, which no state dict needs here"),
    "a number called": ({FLOATS: b"K\x01)R"}, r"its pickle uses REDUCE, which no state dict"),
    "a dict with arguments": (
        {b"\n)R(": b"\nK\x01\x85R("},
        r"'int' object is not iterable",
    ),
    "a module, not a storage": (
        {b"\x07\0\0\0storage": b"\x06\0\0\0module"},
        r"other than the storage",
    ),
    "a negative count": (
        {b"cpuK\x06": b"cpuJ\xff\xff\xff\xff"},
        r"other than the storage of a plain",
    ),
    "an offset too far": ({b"tQK\0K\x02": b"tQK\x01K\x02"}, r"offset 1 does not fit into its stor"),
    "a stride too far": (
        {STRIDES: b"K\x02K\x03\x86K\x04K\x01\x86"},
        r"strides \(4, 1\) .* not fit",
    ),
    "a negative stride": (
        {STRIDES: b"K\x02K\x03\x86J\xff\xff\xff\xffK\x01\x86"},
        r"needs a storage, and offset, sizes and strides >= 0",
    ),
    "strides missing": ({STRIDES: b"K\x02K\x03\x86K\x01\x85"}, r"sizes and strides >= 0"),
    "an array of terabytes": (
        {STRIDES: b"\x8a\x06\0\0\0\0\0\x01K\x01\x86K\0K\0\x86"},
        r"its expanded tensors would take 4398046511104 bytes",
    ),
    "a hundred thousand axes": (  # the product of so many sizes would take hours
        {STRIDES: (b"(" + b"J\xff\xff\xff\x7f" * 100_000 + b"t") * 2},
        r"needs a storage, and offset, sizes and strides >= 0",
    ),
    "a size of 2,000 bits": (
        {STRIDES: b"K\x02\x8a\xff" + b"\x01" * 255 + b"\x86K\x03K\x01\x86"},
        r"needs a storage, and offset, sizes and strides >= 0",
    ),
    "keys nested deeply": (
        {b"X\x01\0\0\0w": b")" + b"\x85" * 100_000},
        r"its pickle nests values more than 100 deep",
    ),
    "a tuple as a key": (
        {b"X\x01\0\0\0w": b")\x85"},
        r"its entry Opaque\(name='tuple'\) is made by",
    ),
    "a memo far away": (
        {b"cpuK\x06": b"cpur\xff\xff\xff\x7fK\x07"},
        r"its instruction 13 stores a value at index 2147483647",
    ),
    "a memo never set": ({b"cpuK\x06": b"cpuh\x09"}, r"its pickle is broken: KeyError\(9\)"),
    "an empty stack": ({b"\x80\x02": b"\x80\x02a"}, r"its pickle is broken: IndexError"),
    "no end": ({b"u.": b"u"}, r"its pickle has no end"),
    "a list, not a dict": ({b"u.": b"u(]."}, r"it holds a list, expected tensors by name"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG_PICKLES.values(), ids=WRONG_PICKLES)
def test_a_hostile_pickle_is_refused(changes, message, tmp_path):
    path = torch_file(tmp_path, pickled=changes)
    with pytest.raises(ValueError, match=rf"load_weights: .*weights\.pt(: | is not a .*){message}"):
        load_weights(path)


def test_a_program_in_a_pickle_does_not_run(tmp_path):
    pickled = pickle.dumps({"w": Run(tmp_path / "ran")}, 2)
    for path in (torch_file(tmp_path, {"data.pkl": pickled}), tmp_path / "legacy.pt"):
        if path.name == "legacy.pt":
            path.write_bytes(b"".join((*legacy_start(), pickled, pickle.dumps([], 2))))
        with pytest.raises(ValueError, match=r"it holds 'w' \((posix|nt)\.system\), no dense t"):
            load_weights(path)
    path = beside_weights(tmp_path, {"run": Run(tmp_path / "ran"), 1.5: [Run(tmp_path / "ran")]})
    assert load_weights(path).keys() == {"w", "b"}
    assert not (tmp_path / "ran").exists()


# Checkpoints of PyTorch ---------------------------------------------------------------------------


def beside_weights(folder, beside, protocol=2):
    """A checkpoint with the arrays of `torch_file` as `net`, and other entries."""
    weights = members_of(torch_file(folder))["archive/data.pkl"][2:-1]
    other = pickle.dumps(beside, protocol)[2:-1]
    items = b"X\x03\0\0\0net" + weights + b"X\x06\0\0\0beside" + other
    return torch_file(folder, {"data.pkl": b"\x80\x02}(" + items + b"u."})


class Odd(dict):
    """Is pickled as an object of its class, with items and attributes."""

    def __init__(self, **attributes):
        super().__init__(attributes)
        self.attributes = attributes


@dataclass(frozen=True, slots=True)
class Settings:
    rate: float


BESIDE = {
    "a number of NumPy": np.float64(0.9),
    "an array of NumPy": np.ones(3),
    "a generator of NumPy": np.random.default_rng(0),
    "a namespace": argparse.Namespace(lr=0.1, tags={"a", "b"}, path=Path("x")),
    "a subclass of dict": Odd(a=1),
    "a dataclass": Settings(0.1),
    "a set": {1, 2},
    "a frozen set": frozenset([(1, 2)]),
    "a dict of lists": defaultdict(list, loss=[1.0, 2.0]),
    "unusual keys": {(1, 2): 3, 1.5: 2, None: 1, 2**70: 0},
    "bytes": bytearray(b"abc"),
    "a function": np.exp,
    "an exception": ValueError("x"),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("value", BESIDE.values(), ids=BESIDE)
def test_objects_beside_the_weights_are_passed_over(value, protocol, tmp_path):
    found = load_weights(beside_weights(tmp_path, value, protocol))
    same(found, {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4)})


def test_numbers_among_the_weights_are_passed_over(tmp_path):
    path = torch_file(tmp_path, pickled={b"u.": b"X\x05\0\0\0epochK\x03u."})
    assert load_weights(path).keys() == {"w", "b"}


@pytest.mark.oracle
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "key",
    *[["state_dict", "model_state_dict", "model", "net", "network", "params", "weights", "mine"]],
)
def test_the_weights_are_found_under_any_name(key, zipped, tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    adam.step()
    checkpoint = {
        "optimizer": adam.state_dict(),
        "args": argparse.Namespace(lr=0.1),
        "loss": torch.tensor(0.3),
        "shape": torch.Size([1, 3]),
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "sparse": torch.ones(2).to_sparse(),
        "complex": [torch.ones(2, dtype=torch.complex64)],
        key: {f"module.{name}": tensor for name, tensor in net.state_dict().items()},
    }
    wanted = {f"module.{name}": tensor.numpy() for name, tensor in net.state_dict().items()}
    for content in (checkpoint, {"checkpoint": checkpoint, "epoch": 3}):
        torch.save(content, tmp_path / "net.th", _use_new_zipfile_serialization=zipped)
        same(load_weights(tmp_path / "net.th"), wanted)


def test_a_torchscript_program_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("net/data.pkl", "net/constants.pkl", "net/code/__torch__/net.py"):
            archive.writestr(name, b"x" * 1000)
    with pytest.raises(ValueError, match=r"net.pt: it is a TorchScript program, .*state_dict\(\)"):
        load_weights(tmp_path / "net.pt")


@pytest.mark.oracle
def test_of_several_state_dicts_one_is_chosen_by_name(tmp_path):
    torch = pytest.importorskip("torch")
    one, two = ({"w": torch.full((2,), float(n))} for n in (1, 2))
    path = tmp_path / "net.pt"
    for names in (("model", "model_ema"), ("state_dict", "model"), ("net", "other")):
        torch.save(dict(zip(names[::-1], (two, one), strict=True)), path)
        assert load_weights(path)["w"][0] == 1
        assert load_weights(path, key=names[1])["w"][0] == 2
    torch.save({"model": {"encoder": one, "decoder": two}}, path)
    with pytest.raises(
        ValueError,
        match=r"net.pt: it holds tensors as 'model.encoder', 'model.decoder'; choose with",
    ):
        load_weights(path)
    assert load_weights(path, "model.decoder")["w"][0] == 2
    with pytest.raises(
        ValueError, match=r"it holds tensors as 'model.encoder', 'model.decoder'; ch"
    ):
        load_weights(path, "discriminator")


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_what_holds_no_plain_weights_is_named(tmp_path):
    torch = pytest.importorskip("torch")
    net, path = torch.nn.Linear(3, 2), tmp_path / "net.pt"
    whole = "torch.nn.modules.linear.Linear"
    cases = [
        (net, f"it holds a {whole}, expected tensors by name: save"),
        ({"model": net, "epoch": 3}, rf"it holds 'model' \({whole}\), 'epoch' \(int\), no dense"),
        (torch.ones(2), "it holds a tensor, expected tensors by name"),
        ({}, "it holds nothing, no dense tensors"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "w has dtype complex64, expected real"),
    ]
    kinds = [
        torch.ones(2).to_sparse(),
        torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        torch.ones(2, dtype=torch.uint16),
        torch.ones(2, device="meta"),
        np.ones(2),
    ]
    cases += [({"b": torch.ones(2), "w": w}, "its entry 'w' is made by .*_re") for w in kinds]
    for content, message in cases:
        for zipped in (True, False):
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            with pytest.raises(ValueError, match=f"load_weights: .*net.pt: {message}"):
                load_weights(path)


@pytest.mark.oracle
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_that_repeat_or_negate_their_storage_keep_their_values(zipped, tmp_path):
    torch = pytest.importorskip("torch")
    imaginary = torch.tensor([1 + 2j, 3 + 4j]).conj().imag
    assert imaginary.is_neg()
    state = {
        "negative": imaginary,
        "doubles": torch.tensor([1 + 2j], dtype=torch.complex128).conj().imag,
        "one": torch.ones(1).expand(3, 4),
        "column": torch.arange(3.0)[:, None].expand(3, 4),
        "half": torch.ones(1).bfloat16().expand(5),
        "flag": torch.tensor([True]).expand(2),
        "windows": torch.arange(5.0).unfold(0, 3, 1),
        "number": torch.tensor(3.0),
    }
    torch.save(state, tmp_path / "net.pt", _use_new_zipfile_serialization=zipped)
    found = load_weights(tmp_path / "net.pt")
    same(found, {name: as_numpy(tensor.resolve_neg()) for name, tensor in state.items()})
    found["one"][0, 0] = 5
    assert found["one"].sum() == 16


def test_many_names_for_one_expanded_storage_are_refused(tmp_path):
    """Each would take 48 MB, from 24 bytes in the file."""
    strides = b"M\xd0\x07M\x70\x17\x86K\0K\0\x86"  # (2000, 6000), (0, 0)
    path = torch_file(tmp_path, pickled={STRIDES: strides})
    assert load_weights(path)["w"].shape == (2000, 6000)
    pickled = members_of(path)["archive/data.pkl"]
    tensor = pickled[pickled.index(REBUILD) : pickled.index(b"X\x01\0\0\0b")]
    path = torch_file(tmp_path, {"data.pkl": pickled[:-2] + b"X\x01\0\0\0c" + tensor + b"u."})
    with pytest.raises(ValueError, match="its expanded tensors would take 96000000 bytes"):
        load_weights(path)


def named_again(path, count):
    """Return a pickle in which one tensor has many names."""
    pickled = members_of(path)["archive/data.pkl"]
    tensor = pickled[pickled.index(REBUILD) : pickled.index(b"X\x01\0\0\0b")]
    names = (b"X\x03\0\0\0%03d" % number for number in range(count))
    return pickled[:-2] + b"".join(name + tensor for name in names) + b"u."


@pytest.mark.parametrize("kind", ["Float", "Bool", "Half", "BFloat16"])
def test_many_names_for_one_storage_share_it(kind, tmp_path):
    count = 6 * {"Float": 1, "Bool": 4}.get(kind, 2)  # in the same 24 bytes
    changes = {
        FLOATS: f"ctorch\n{kind}Storage\n".encode(),
        b"cpuK\x06": b"cpuK" + bytes([count]),
    }
    path = torch_file(tmp_path, pickled=changes)
    path = torch_file(tmp_path, {"data.pkl": named_again(path, 500)})
    found = load_weights(path)
    assert len(found) == 502
    assert all(np.shares_memory(found["w"], found[f"{number:03d}"]) for number in range(500))


def test_a_storage_described_in_two_ways_is_refused(tmp_path):
    """Each of ten dtypes would be a copy; torch.save refuses to write this."""
    path = torch_file(tmp_path)
    pickled = members_of(path)["archive/data.pkl"]
    again = named_again(path, 1)[len(pickled) - 2 :].replace(FLOATS, b"ctorch\nIntStorage\n")
    path = torch_file(tmp_path, {"data.pkl": pickled[:-2] + again})
    with pytest.raises(ValueError, match=r"storage 0 has two different descriptions"):
        load_weights(path)


def test_files_of_python_2_are_read(tmp_path):
    """There, names are byte strings, and an OrderedDict gets its items as a list of lists."""
    tensor = (
        REBUILD + b"((U\x07storage" + FLOATS + b"U\x010U\x03cpuK\x06tQK\0K\x06\x85K\x01\x85\x89"
    )
    tensor += b"ccollections\nOrderedDict\n]\x85RtR"
    pickled = b"\x80\x02ccollections\nOrderedDict\n](](U\x01w" + tensor + b"ee\x85R."
    found = load_weights(torch_file(tmp_path, {"data.pkl": pickled}))
    same(found, {"w": np.arange(6, dtype=np.float32)})


def test_dicts_made_again_and_again_of_one_list_are_refused(tmp_path):
    items = b"](" + b"".join(b"](K" + bytes([n]) + b"Ne" for n in range(200)) + b"eq\0"
    call = b"ccollections\nOrderedDict\nh\0\x85R"
    path = torch_file(tmp_path, {"data.pkl": b"\x80\x02" + items + call * 5_000 + b"."})
    with pytest.raises(ValueError, match=r"a value too often, .* at most"):
        load_weights(path)


# Sharded checkpoints ------------------------------------------------------------------------------


def shards(folder, ending, index):
    for number in (1, 2):
        state = {f"w{number}": np.full(2, number, np.float32)}
        path = save_weights(state, folder / f"part{number}.{'pt' if ending == 'bin' else ending}")
        path.rename(folder / f"model-{number}.{ending}")
    (folder / f"model.{ending}.index.json").write_text(index)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_are_read_through_their_index_or_folder(ending, tmp_path):
    files = {"w2": f"model-2.{ending}", "w1": f"model-1.{ending}"}
    shards(tmp_path, ending, json.dumps({"metadata": {"total_size": 16}, "weight_map": files}))
    for path in (tmp_path, tmp_path / f"model.{ending}.index.json"):
        found = load_weights(path)
        assert list(found) == ["w2", "w1"]
        same(found, {f"w{n}": np.full(2, n, np.float32) for n in (1, 2)})


def test_a_folder_with_one_file_of_weights_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder, expected one with an index .*; found none"):
        load_weights(tmp_path)
    save_weights({"w": np.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    same(load_weights(tmp_path), {"w": np.ones(2)})
    save_weights({"w": np.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"found model\.safetensors, other\.safetensors"):
        load_weights(tmp_path)


WRONG_INDEXES = {
    "no JSON": ("{", "is not an index of weights, or is damaged"),
    "no map": ("{}", "is not an index of weights, or is damaged .KeyError"),
    "a list": ('{"weight_map": [1]}', "is not an index of weights"),
    "a number": ('{"weight_map": {"w": 1}}', "is not an index of weights"),
    "nested deeply": ('{"weight_map":' + "[" * 100_000, "is not an index of weights"),
    "a path": ('{"weight_map": {"w": "../a.safetensors"}}', "names files that are not in its own"),
    "nothing": ('{"weight_map": {"w": ""}}', "files that are not in"),
    "a zero byte": ('{"weight_map": {"w": "a\\u0000"}}', "files that are not in its own folder"),
    "too many": ('{"weight_map": {' + '"a":"b",' * 300_000 + '"a":"b"}}', "JSON of 600,003 values"),
    "a long name": (
        '{"weight_map": {"w": "%s"}}' % ("a" * 256),
        "files that are not in its own folder",
    ),
    "itself": ('{"weight_map": {"w": "model.safetensors.index.json"}}', "files that are not in"),
    "a folder": ('{"weight_map": {"w": ".."}}', "names files that are not in its own"),
    "another file": (
        '{"weight_map": {"w1": "model-2.safetensors"}}',
        "lists w1, which model-2.safe",
    ),
}


@pytest.mark.parametrize(("index", "message"), WRONG_INDEXES.values(), ids=WRONG_INDEXES)
def test_a_damaged_index_is_refused(index, message, tmp_path):
    shards(tmp_path, "safetensors", index)
    with pytest.raises(ValueError, match=f"load_weights: .*index.json .*{message}"):
        load_weights(tmp_path)


def test_a_shard_with_many_names_is_read_once(tmp_path, monkeypatch):
    path = save_weights({f"w{n}": np.full(2, n) for n in range(9)}, tmp_path / "a.safetensors")
    for number in range(9):
        (tmp_path / f"{number}.safetensors").hardlink_to(path)
    files = {f"w{number}": f"{number}.safetensors" for number in range(9)}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    opened = []
    real = weights.open_regular
    monkeypatch.setattr(weights, "open_regular", lambda path: opened.append(path) or real(path))
    assert list(load_weights(index)) == list(files)
    assert len(opened) == 1


def test_a_shard_that_is_a_folder_is_refused(tmp_path):
    """Its index may name the folder itself again."""
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"w": "sub"}}')
    (tmp_path / "sub").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"names 'sub', which is a folder"):
        load_weights(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs are of POSIX")
@pytest.mark.parametrize("name", ["w.npz", "w.pt", "w.bin", "w.safetensors", "w.bin.index.json"])
def test_a_fifo_is_refused_at_once(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="got a FIFO, expected a regular file"):
        load_weights(tmp_path / name)
    with pytest.raises(ValueError, match="with one file of weights; found none"):
        load_weights(tmp_path)


def test_a_key_is_for_checkpoints_of_torch(tmp_path):
    path = save_weights({"w": np.ones(2)}, tmp_path / "w.npz")
    with pytest.raises(
        ValueError, match=r"w\.npz: it has no entries to choose from with key='net'"
    ):
        load_weights(path, key="net")


# Members ------------------------------------------------------------------------------------------


def test_a_zip_bomb_is_refused_unread(tmp_path):
    path = torch_file(tmp_path, {"data/0": bytes(1 << 24)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"its members are compressed, .* is it a zip bomb\?"):
        load_weights(path)
    np.savez_compressed(tmp_path / "weights.npz", w=np.zeros(1 << 27, np.uint8))
    with pytest.raises(
        ValueError,
        match=r"a member w\.npy of 134,217,856 bytes, expected at most [\d,]+ bytes in memory",
    ):
        load_weights(tmp_path / "weights.npz")


def test_members_that_claim_more_than_the_file_are_refused(tmp_path):
    path = torch_file(tmp_path)
    content = bytearray(path.read_bytes())
    place = content.rindex(b"archive/data/0") - 46  # of its entry in the directory at the end
    assert content[place : place + 4] == b"PK\x01\x02"
    content[place + 20 : place + 28] = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"member archive/data/0 .* claims more than the file has"):
        load_weights(path)


WRONG_MEMBERS = {
    "no pickle": ({"data.pkl": None}, r"it is a zip file without exactly one data\.pkl"),
    "a storage missing": ({"data/1": None}, r"storage 1: got 0 bytes, expected 32"),
    "a storage too short": ({"data/0": bytes(20)}, r"storage 0: got 20 bytes, expected 24"),
    "a storage too long": ({"data/0": bytes(28)}, r"storage 0: got 28 bytes, expected 24"),
    "another byte order": (
        {"byteorder": b"middle"},
        r"its byte order is b'middle', expected little",
    ),
}


@pytest.mark.parametrize(("changes", "message"), WRONG_MEMBERS.values(), ids=WRONG_MEMBERS)
def test_a_damaged_zip_file_of_torch_is_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=rf"weights\.pt is not a \.pt file .*{message}"):
        load_weights(torch_file(tmp_path, changes))


def test_members_that_come_twice_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"or a duplicate member"):
        load_weights(torch_file(tmp_path, twice=True))
    path = tmp_path / "weights.npz"
    np.savez(path, w=np.ones(3))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("w.npy", archive.read("w.npy"))
    with pytest.raises(ValueError, match=r"or a duplicate member"):
        load_weights(path)


def test_a_changed_storage_is_found_by_its_checksum(tmp_path):
    path = torch_file(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content.replace(np.float32(5).tobytes(), np.float32(6).tobytes()))
    with pytest.raises(ValueError, match=r"Bad CRC-32 for file 'archive/data/0'"):
        load_weights(path)


def legacy_start():
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    return [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]


def legacy_file(folder, *, keys=("0", "1"), counts=(6, 4), start=(), end=0):
    pickled = members_of(torch_file(folder))["archive/data.pkl"]
    parts = [*(start or legacy_start()), pickled, pickle.dumps(list(keys), 2)]
    for count, data in zip(counts, (np.arange(6, dtype="f4"), np.ones(4)), strict=True):
        parts.append(count.to_bytes(8, "little") + data.tobytes())
    path = folder / "legacy.pth"
    content = b"".join(parts)
    path.write_bytes(content[: len(content) - end])
    return path


def test_the_older_form_is_read(tmp_path):
    found = load_weights(legacy_file(tmp_path))
    np.testing.assert_array_equal(found["w"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["b"], [1, 1, 1, 1])


BIG_ENDIAN = [*legacy_start()[:2], pickle.dumps({"little_endian": False}, 2)]
NOT_TORCH = [pickle.dumps(number, 2) for number in (1, 1001, {})]
WRONG_LEGACY = {
    "another magic number": (
        {"start": NOT_TORCH},
        r"neither a zip file nor an older PyTorch f",
    ),
    "big-endian": ({"start": BIG_ENDIAN}, r"needs version 1001 and little-endian values"),
    "keys that are no text": ({"keys": (0, 1)}, r"it needs a list of its storages' keys"),
    "an unknown key": (
        {"keys": ("0", "7")},
        r"storage 7 belongs to no tensor, or its size differs",
    ),
    "a key missing": ({"keys": ("0",)}, r"it has 40 bytes after its storages"),
    "a key twice": ({"keys": ("0", "0")}, r"storage 0 belongs to no tensor, or its size differs"),
    "another count": ({"counts": (6, 5)}, r"storage 1 belongs to no tensor, or its size differs"),
    "a short end": ({"end": 3}, r"storage 1: got 29 bytes, expected 32"),
}


@pytest.mark.parametrize(("options", "message"), WRONG_LEGACY.values(), ids=WRONG_LEGACY)
def test_a_damaged_file_of_the_older_form_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=rf"legacy\.pth is not a \.pth file .*{message}"):
        load_weights(legacy_file(tmp_path, **options))


@pytest.mark.parametrize(
    ("array", "message"),
    [(np.ones(2, complex), r"w has dtype complex128"), (np.array(["a"]), r"w has dtype <U1")],
)
def test_npz_files_of_other_dtypes_are_refused(array, message, tmp_path):
    np.savez(tmp_path / "weights.npz", w=array)
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path / "weights.npz")


def test_an_npz_member_that_claims_terabytes_is_refused(tmp_path):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out, {"descr": "<f4", "fortran_order": False, "shape": (2**50,)}
    )
    with zipfile.ZipFile(tmp_path / "weights.npz", "w") as archive:
        archive.writestr("w.npy", out.getvalue())
    with pytest.raises(ValueError, match=r"weights.npz is not a .npz file of plain arrays"):
        load_weights(tmp_path / "weights.npz")


def test_an_npz_header_that_numpy_cannot_parse_is_refused(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3<, }\n"
    with zipfile.ZipFile(tmp_path / "weights.npz", "w") as archive:
        archive.writestr("w.npy", b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header)
    with pytest.raises(ValueError, match=r"weights.npz is not a .npz file of plain arrays"):
        load_weights(tmp_path / "weights.npz")


def test_a_pickle_of_gigabytes_is_refused_unread(monkeypatch, tmp_path):
    monkeypatch.setattr(torch_files, "_LARGEST_PICKLE", 200)
    with pytest.raises(ValueError, match=r"its data\.pkl has more than 200 bytes"):
        load_weights(torch_file(tmp_path))
