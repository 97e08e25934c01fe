"""Arrays from and for other libraries; for PyTorch, see `test_coming_from_torch.py`."""

from __future__ import annotations

import array
import collections
import copy
import ctypes
import datetime
import decimal
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

import minidl
from minidl import Tensor, data, models, nn, optim
from minidl import functional as F


class Foreign:
    """An array of another library: NumPy can ask for it by `__array__`, in today's way."""

    def __init__(self, values=(1.0, 2.0)):
        self.values = np.array(values)

    def __array__(self, dtype=None, copy=None):
        return self.values


class Old(Foreign):
    def __array__(self):
        return self.values


class Interface(Foreign):
    __array__ = None  # NumPy looks at the class first

    def __init__(self):
        super().__init__()
        self.__array_interface__ = self.values.__array_interface__


del Interface.__array__


class Lender:
    """Knows DLPack and nothing else, as arrays of JAX once did."""

    def __init__(self, values=(1.0, 2.0)):
        self.values = np.array(values)

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


class OldLender(Lender):
    def __dlpack__(self, stream=None):
        return self.values.__dlpack__()


class Units(np.ndarray):
    """Stands for arrays with units."""


def mapped(tmp_path, dtype="float32"):
    found = np.memmap(tmp_path / "values", dtype=dtype, mode="w+", shape=(3, 2))
    found[...] = [[1, 2], [3, 4], [5, 6]]
    return found


TAKEN = {
    "__array__": (Foreign(), "float64", [1, 2]),
    "__array__ without keywords": (Old(), "float64", [1, 2]),
    "__array__ of float32": (Foreign(np.float32([1, 2])), "float32", [1, 2]),
    "__array__ of integers": (Foreign([1, 2]), "int64", [1, 2]),
    "__array_interface__": (Interface(), "float64", [1, 2]),
    "__dlpack__": (Lender(), "float64", [1, 2]),
    "__dlpack__ without keywords": (OldLender(), "float64", [1, 2]),
    "array.array of floats": (array.array("f", [1, 2]), "float32", [1, 2]),
    "array.array of doubles": (array.array("d", [1, 2]), "float64", [1, 2]),
    "memoryview": (memoryview(array.array("d", [1, 2])), "float64", [1, 2]),
    "bytearray": (bytearray(b"\1\2"), "uint8", [1, 2]),
    "ctypes": ((ctypes.c_float * 2)(1, 2), "float32", [1, 2]),
    "ctypes, nested": (((ctypes.c_int * 2) * 1)((1, 2)), "int32", [[1, 2]]),
    "PIL, grey": (Image.new("L", (2, 1), 7), "uint8", [[7, 7]]),
    "PIL, floats": (Image.new("F", (2, 1), 7), "float32", [[7, 7]]),
    "PIL, colours": (Image.new("RGB", (1, 1), (1, 2, 3)), "uint8", [[[1, 2, 3]]]),
    "range": (range(1, 3), "int64", [1, 2]),
    "deque": (collections.deque([1.0, 2.0]), "float32", [1, 2]),
    "list of scalars": ([np.float64(1), np.float64(2)], "float32", [1, 2]),
    "list of arrays": ([np.ones(2), np.zeros(2)], "float32", [[1, 1], [0, 0]]),
    "scalar": (np.int8(2), "int8", 2),
    "0-d": (np.array(2.0), "float64", 2),
    "read-only": (np.broadcast_to(np.float32(1), (2,)), "float32", [1, 1]),
    "backwards": (np.arange(3.0)[::-2], "float64", [2, 0]),
    "big-endian floats": (np.array([1, 2], ">f4"), "float32", [1, 2]),
    "big-endian integers": (np.array([1, 2], ">i2"), "int16", [1, 2]),
    "subclass": (np.array([1.0, 2.0]).view(Units), "float64", [1, 2]),
    "shown data": (Tensor([1.0, 2.0]).data, "float32", [1, 2]),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_a_tensor_takes_what_holds_numbers(kind):
    given, dtype, values = TAKEN[kind]
    x = Tensor(given)
    assert type(x.array) is np.ndarray
    assert x.dtype == dtype
    assert x.dtype.isnative
    assert x.numpy().tolist() == values
    assert not np.shares_memory(x.array, np.asarray(given)) if hasattr(given, "dtype") else True


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_a_matrix_becomes_an_array_and_multiplies_elementwise():
    matrix = np.matrix([[1.0, 2.0]])
    assert Tensor(matrix).shape == (1, 2)
    assert (Tensor([[1.0, 2.0]]) * matrix).numpy().tolist() == [[1, 4]]
    assert (matrix * Tensor([[1.0, 2.0]])).numpy().tolist() == [[1, 4]]


class Failing(Foreign):
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("out of cheese")


class Garbage(Foreign):
    def __array__(self, dtype=None, copy=None):
        return "no array"


class BadLender(Lender):
    def __dlpack__(self, **options):
        return 3


class Sequence:
    """Claims a length that it does not have."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise KeyError(index)


MASKED = np.ma.masked_array([1.0, 2.0], [False, True])

_LETTERS = "w" if sys.version_info >= (3, 13) else "u"  # array's typecode

REFUSED = {
    "masked": (MASKED, r"got a MaskedArray, .*x\.filled\(value\)"),
    "list of masked": ([MASKED, MASKED], r"got a list, .*x\.filled\(value\)"),
    "list with a masked": ([np.ones(2), MASKED], r"got a list, .*x\.filled\(value\)"),
    "__array__ fails": (Failing(), "got a Failing, .*: out of cheese"),
    "float16": (np.ones(2, np.float16), "got dtype float16, expected float32 or float64"),
    "float16 behind a buffer": (memoryview(np.ones(2, np.float16)), "got dtype float16"),
    "longdouble": (np.ones(2, np.longdouble), "got dtype .*, expected float32 or float64"),
    "object": (np.array([1, None]), "got a ndarray of dtype object"),
    "numbers as objects": (np.array([1, 2], object), "got a ndarray of dtype object"),
    "complex": (1j, "got a complex of dtype complex128"),
    "times": (np.array(["2020"], "M8[D]"), r"got a ndarray of dtype datetime64\[D\]"),
    "spans": (np.array([1], "m8[s]"), r"got a ndarray of dtype timedelta64\[s\]"),
    "structured": (np.zeros(2, [("a", "f4")]), r"got a ndarray of dtype \[\('a', '<f4'\)\]"),
    "text": ("abc", "got a str of dtype <U3"),
    "bytes": (b"abc", r"got a bytes of dtype \|S3"),
    "characters": (
        array.array("w" if sys.version_info >= (3, 13) else "u", "ab"),
        "got a array of dtype <U1",
    ),
    "strings": (np.array(["a"], np.dtypes.StringDType()), "got a ndarray of dtype StringDType"),
    "None": (None, "got a NoneType of dtype object"),
    "None in a list": ([1, None], "got a list of dtype object"),
    "generator": ((i for i in range(3)), "got a generator of dtype object"),
    "set": ({1, 2}, "got a set of dtype object"),
    "dict": ({"a": 1}, "got a dict of dtype object"),
    "values": ({"a": 1}.values(), "got a dict_values of dtype object"),
    "class": (np.ndarray, "got a type of dtype object"),
    "decimal": (decimal.Decimal(1), "got a Decimal of dtype object"),
    "date": (datetime.date(2020, 1, 1), "got a date of dtype object"),
    "beyond int64": ([2**70], "got a list of dtype object"),
    "sequence": (Sequence(), "got a Sequence of dtype object"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_everything_else_is_refused_by_name(kind):
    given, message = REFUSED[kind]
    for made, who in ((Tensor, "Tensor"), (nn.Parameter, "Tensor"), (nn.Buffer, "Tensor")):
        with pytest.raises(TypeError, match=f"{who}: {message}"):
            made(given)


def test_garbage_and_too_deep_lists_are_refused():
    deep: list = []
    for _ in range(70):
        deep = [deep]
    for given in (Garbage(), BadLender(), deep, [[1], [1, 2]]):
        with pytest.raises(ValueError, match=r"Tensor: got a .*, expected real numbers in rows of"):
            Tensor(given)


def assigned(values):
    x = minidl.zeros(2)
    x.data = values
    return x


def loaded(values):
    layer = nn.Linear(2, 1, bias=False)
    layer.load_state_dict({"weight": values})
    return layer.weight.reshape(2)


PLACES = {
    "Tensor": Tensor,
    "Parameter": nn.Parameter,
    "Tensor.data": assigned,
    "load_state_dict": loaded,
    "a target": lambda values: F.mse_loss(minidl.zeros(2), values, reduction="none"),
    "DataLoader": lambda values: next(iter(data.DataLoader(values)))[0],
    "DataLoader, ahead": lambda values: next(iter(data.DataLoader(values, prefetch=1)))[0],
}


@pytest.mark.parametrize("place", PLACES)
def test_every_entrance_converts_alike(place):
    take = PLACES[place]
    shape = (1, 2) if place == "load_state_dict" else (2,)
    for values in (
        np.array([1, 2], ">f4").reshape(shape),
        np.array([1, 2], np.float32).view(Units).reshape(shape),
        Foreign(np.float32([1, 2]).reshape(shape)),
    ):
        x = take(values)
        assert x.numpy().tolist() in ([1, 2], [1, 4])
        assert x.dtype == np.float32
        assert x.dtype.isnative
        assert type(x.array) is np.ndarray
    for values, message in (
        (MASKED.reshape(shape), r"x\.filled"),
        (np.array([1, 2], object).reshape(shape), "dtype object"),
        (np.array([1j, 2]).reshape(shape), "dtype complex128"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            take(values)


def test_operators_take_arrays_of_either_side_and_refuse_the_rest(tmp_path):
    x = Tensor([1.0, 2.0])
    for other in (mapped(tmp_path), np.array([1, 2], ">f4"), np.array([1.0, 2.0]).view(Units)):
        plain = np.asarray(other)
        for sum_ in (x + other, other + x):
            assert isinstance(sum_, Tensor)
            assert sum_.numpy().tolist() == (plain + x.numpy()).tolist()
            assert sum_.dtype.isnative
    for other in (MASKED, np.array([1j, 2]), np.array([1, 2], object)):
        for add in (lambda a, b: a + b, lambda a, b: b + a):
            with pytest.raises(TypeError, match=r"add: got a (MaskedArray|ndarray)"):
                add(x, other)
    for other in ([1, 2], Foreign(), Lender(), array.array("f", [1, 2]), None, "a", 1j):
        with pytest.raises(
            TypeError, match=f"add: got a {type(other).__name__}, expected a tensor"
        ):
            x + other


def test_labels_and_indices_may_come_from_elsewhere():
    logits = Tensor(np.eye(3, dtype=np.float32))
    wanted = F.cross_entropy(logits, [0, 1, 2]).item()
    for labels in (array.array("l", [0, 1, 2]), np.array([0, 1, 2], ">i8"), Foreign([0, 1, 2])):
        assert F.cross_entropy(logits, labels).item() == wanted
        assert nn.Embedding(4, 2)(labels).shape == (3, 2)
    with pytest.raises(TypeError, match=r"cross_entropy: got a MaskedArray.*filled"):
        F.cross_entropy(logits, np.ma.masked_array([0, 1, 2], [False, True, False]))
    with pytest.raises(TypeError, match="mse_loss: got a set of dtype object"):
        F.mse_loss(logits, {1})
    assert models.TextCNN(9, 2)(Foreign([[1, 2]])).shape == (1, 2)


def test_a_loader_leaves_a_memory_map_on_disk(tmp_path):
    on_disk = mapped(tmp_path)
    loader = data.DataLoader(on_disk, batch_size=2)
    assert np.shares_memory(loader.arrays[0], on_disk)
    assert [x.numpy().tolist() for (x,) in loader] == [[[1, 2], [3, 4]], [[5, 6]]]


def test_a_dtype_in_foreign_byte_order_means_the_native_one():
    for x in (Tensor([1, 2], ">f8"), minidl.zeros(2, dtype=">f8"), Tensor([1]).to(dtype=">f8")):
        assert x.dtype == np.float64
        assert x.dtype.isnative


def test_a_guarded_array_moves_where_it_is_asked_to():
    there = Tensor([1.0, 2.0], device="guarded").array
    assert Tensor(there).device == "guarded"
    assert Tensor(there, device="cpu").numpy().tolist() == [1, 2]
    with pytest.raises(TypeError, match=r"add: got tensors on 'cpu' and 'guarded'"):
        Tensor([1.0, 2.0]) + there


# Out: without a copy


def test_numpy_borrows_a_tensor_s_memory_read_only():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]]).T
    lent = np.from_dlpack(x)
    assert np.shares_memory(lent, x.array)
    assert lent.tolist() == [[1, 3], [2, 4]]
    with pytest.raises(ValueError, match="read-only"):
        lent[0] = 5
    free = np.from_dlpack(x, copy=True)
    free[...] = 0
    assert x.numpy().tolist() == [[1, 3], [2, 4]]
    assert x.__dlpack_device__() == np.zeros(1).__dlpack_device__()


def test_a_tensor_that_requires_a_gradient_is_lent_detached_only():
    w = nn.Parameter([1.0])
    for x in (w, w * 2):
        with pytest.raises(BufferError, match=r"requires a gradient .*x\.detach\(\)"):
            np.from_dlpack(x)
    assert np.shares_memory(np.from_dlpack(w.detach()), w.array)


def test_a_library_that_knows_no_read_only_arrays_gets_none():
    with pytest.raises(BufferError, match="readonly"):
        Tensor([1.0]).__dlpack__()


def test_other_ways_to_an_array_are_refused_because_they_would_lose_the_graph():
    x = Tensor([1.0])
    for convert in (np.asarray, np.array, lambda x: np.asarray(x, copy=False), np.float32):
        with pytest.raises(TypeError, match=r"implicitly; call \.numpy\(\)"):
            convert(x)
    with pytest.raises(TypeError, match="bytes-like"):
        memoryview(x)
    assert not hasattr(x, "__array_interface__")
    assert not hasattr(x, "__cuda_array_interface__")


def test_from_dlpack_shares_memory_that_minidl_does_not_write_to():
    lender = Lender(np.float32([1, 2]))
    x = minidl.from_dlpack(lender)
    assert (x.device, x.dtype, x.requires_grad) == ("cpu", np.float32, False)
    assert np.shares_memory(x.array, lender.values)
    with pytest.raises(ValueError, match="view of another"), x.mutable():
        pass
    with pytest.raises(ValueError, match="view of another"):
        x.data = [3, 4]
    lender.values[0] = 5
    assert (x * 2).numpy().tolist() == [10, 4]
    again = minidl.from_dlpack(Tensor([1.0]))
    assert again.numpy().tolist() == [1]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([1.0], AttributeError, "no attribute '__dlpack_device__'"),
        (np.ones(2, np.float16), TypeError, "from_dlpack: got dtype float16, expected float32"),
        (np.ones(2, complex), TypeError, "from_dlpack: got dtype complex128, expected float32"),
        (nn.Parameter([1.0]), BufferError, "requires a gradient"),
    ],
)
def test_from_dlpack_refuses_what_tensors_cannot_hold(given, error, message):
    with pytest.raises(error, match=message):
        minidl.from_dlpack(given)


# Pickles and copies


def trained():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    adam = optim.Adam(model.parameters(), lr=0.1)
    model(minidl.ones((3, 1, 4, 4))).sum().backward()
    adam.step()
    return model, adam


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_models_and_optimisers_pickle_together(protocol):
    model, adam = pickle.loads(pickle.dumps(trained(), protocol))
    wanted, _ = trained()
    assert model.state_dict().keys() == wanted.state_dict().keys()
    before = model.state_dict()
    adam.step()  # the gradients came along, and the optimiser holds the copied model's parameters
    assert not np.array_equal(before["0.weight"], model.state_dict()["0.weight"])


def test_copies_are_independent():
    model, _ = trained()
    twin = copy.deepcopy(model)
    for p in twin.parameters():
        with p.mutable() as values:
            values[...] = 0
    assert all(p.numpy().any() for p in model.parameters())
    assert all(p.requires_grad and not isinstance(p, nn.Buffer) for p in twin.parameters())
