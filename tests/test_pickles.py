"""Pickles read as data: plain values come back, and no pickle grows, recurs or runs for long."""

import contextlib
import io
import pickle
import pickletools
import struct
import sys
import tracemalloc
import zipfile
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.data.cifar10 import read_python_batch
from minidl.files import budget, pickles
from minidl.files.budget import Budget
from minidl.files.pickles import ForbiddenGlobalError, PickleReader
from minidl.training import load_weights


class Reader(PickleReader):
    what = "test"
    admitted = MappingProxyType({"a.f": lambda *arguments: b"f" * len(arguments), "a.name": None})
    refusal = "no {}, please"


def read(content):
    return Reader(Budget(len(content))).read(io.BytesIO(content))


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    plain | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.binary() | st.integers(-(2**60) + 1, 2**60 - 1), inner)
    ),
    max_leaves=30,
)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@given(value=values)
def test_plain_values_come_back(protocol, value):
    assert read(pickle.dumps(value, protocol)) == value


def test_what_is_shared_comes_back_shared():
    shared = ["x", (1, 2)]
    found = read(pickle.dumps({"a": shared, "b": [shared, shared[1]]}, 2))
    assert found == {"a": shared, "b": [shared, shared[1]]}
    assert found["a"] is found["b"][0]


def test_strings_of_python_2_are_bytes():
    content = b"\x80\x02}(U\x0blabel_names](U\x03catT\x03\0\0\0\xff\0geU\x07num_visM\x00\x0cu."
    assert read(content) == {b"label_names": [b"cat", b"\xff\0g"], b"num_vis": 3072}


def test_pickles_can_follow_one_another():
    file, reader = (
        io.BytesIO(pickle.dumps([1], 2) + pickle.dumps({"a": 2}, 4) + b"rest"),
        Reader(Budget(99)),
    )
    assert [reader.read(file), reader.read(file), file.read()] == [[1], {"a": 2}, b"rest"]


def test_only_what_is_admitted_is_called_and_only_its_stand_in():
    assert read(b"\x80\x02ca\nf\nK\x01K\x02\x86R.") == b"ff"
    assert read(b"\x80\x04\x8c\x01a\x8c\x04name\x93.").name == "a.name"
    for content in (b"ca\nname\n)R.", b"K\x01)R.", b"ca\nf\nK\x01R.", b"ca\nf\n}b."):
        with pytest.raises(ValueError, match=r"its pickle (uses REDUCE|sets attributes of a G)"):
            read(content)
    for content in (b"cos\nsystem\n.", b"ca.f\n__call__\n.", b"\x8c\x02os\x8c\x06system\x93."):
        with pytest.raises(ForbiddenGlobalError, match=r"no (os.system|a.f.__call__), please"):
            read(content)
    with pytest.raises(ValueError, match="refers to something outside it"):
        read(b"K\x01Q.")


@pytest.mark.parametrize("opcode", pickletools.opcodes, ids=lambda opcode: opcode.name)
def test_every_instruction_is_known_or_refused(opcode):
    """Whatever stands on the stack, nothing but a ValueError may come of an instruction."""
    stacks = [b"", b"(", b"K\x01", b"K\x01K\x02", b"](K\x01", b"}(X\x01\0\0\0aK\x01", b"ca\nf\n)"]
    arguments = [b"", b"\0" * 8, b"1\n", b"a\nf\n", b"\x01a", b"\x01\0\0\0a", b"'a'\n"]
    for stack in stacks:
        for argument in arguments:
            with contextlib.suppress(ValueError):
                read(stack + opcode.code.encode("latin-1") + argument + b".")


# Nesting ------------------------------------------------------------------------------------------

MILLION = 1_000_000
NESTED = {
    "as a key": b"})" + b"\x85" * MILLION + b"K\x01s.",
    "in a set": b"\x8f()" + b"\x85" * MILLION + b"\x90.",
    "in a frozen set": b"()" + b"\x85" * MILLION + b"\x91.",
    "in a list": b"])" + b"\x85" * MILLION + b"a.",
    "of three": b")" + b"NN\x87" * MILLION + b".",
    "of lists": b"]" * (MILLION // 4) + b"a" * (MILLION // 4 - 1) + b".",
    "of dicts": b"}K\x01" * (MILLION // 4) + b"}" + b"s" * (MILLION // 4) + b".",
    "of marks": b"(" * (MILLION // 4) + b"t" * (MILLION // 4) + b".",
    "as a state": b"})" + b"\x85" * MILLION + b"b.",
    "as an identity": b")" + b"\x85" * MILLION + b"Q.",
    "by the memo": b")" + b"q\0h\0\x85" * (MILLION // 4) + b".",
    "of a list twice": b"]" + b"q\0](h\0h\0e" * (MILLION // 8) + b".",
}


def torch_file(folder, content):
    with zipfile.ZipFile(folder / "w.pt", "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return folder / "w.pt"


def batch(folder, content):
    (folder / "data_batch_1").write_bytes(content)
    return folder / "data_batch_1"


def legacy(folder, content):
    (folder / "w.pth").write_bytes(content)
    return folder / "w.pth"


CALLERS = {
    "torch": lambda folder, content: load_weights(torch_file(folder, content)),
    "legacy": lambda folder, content: load_weights(legacy(folder, content)),
    "cifar": lambda folder, content: read_python_batch(batch(folder, content)),
}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("kind", NESTED)
def test_a_million_nested_values_are_refused(kind, caller, tmp_path):
    refused = r"nests values more than 100 deep|uses EMPTY_SET"
    with pytest.raises(ValueError, match=refused):
        CALLERS[caller](tmp_path, b"\x80\x02" + NESTED[kind])


def test_nesting_is_bounded_exactly():
    def deep(count):
        return b")" + b"\x85" * (count - 1) + b"."

    read(deep(100))
    with pytest.raises(ValueError, match="more than 100 deep"):
        read(deep(101))


TRICKS = {  # each would nest without end, or deeper than the depths add up to
    "a list in itself": b"]q\0h\0a.",
    "a dict in itself": b"}q\0K\x01h\0s.",
    "a list in a tuple in itself": b"]q\0h\0\x85a.",
    "a list filled in a tuple": b"]q\0\x85q\x01(h\0h\x01e.",
    "a list filled after its use": b"]q\0\x85h\0h\0\x85a.",
    "a dict filled after its use": b"}q\0\x85h\0K\x01K\x02s.",
    "a list dropped as a state, kept in the memo": b"}]q\0(]q\1h\0aeb.",
}


@pytest.mark.parametrize("content", TRICKS.values(), ids=TRICKS)
def test_nothing_grows_after_its_use(content):
    with pytest.raises(ValueError, match=r"uses (APPENDS?|SETITEM), which no test needs here"):
        read(content)


PIECES = [b")", b"]", b"}", b"N", b"K\x01", b"(", b"t", b"\x85", b"\x86", b"a", b"e", b"s", b"u"]
PIECES += [b"b", b"q\0", b"q\x01", b"h\0", b"h\x01", b"ca\nf\n", b"R"]


def depth(value, limit):
    """Count the levels of containers, at most one more than the limit."""
    inner = value.values() if isinstance(value, dict) else value
    if not isinstance(value, tuple | list | dict) or limit < 0:
        return 0
    return 1 + max((depth(item, limit - 1) for item in inner), default=0)


@settings(max_examples=1_000)
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_no_pickle_nests_deeper_than_allowed(pieces):
    """Even where it fails in the end: whatever was on the stack and in the memo is measured."""
    reader = Reader(Budget(99))
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(ValueError):
        patch.setattr(pickles, "_DEEPEST", 3)
        reader.read(io.BytesIO(b"".join([b"))]q\0q\x01", *pieces, b"."])))
    entries = [*reader._stack, *reader._memo.values()]
    entries += [entry for stack in reader._marked for entry in stack]
    for entry in entries:
        if not isinstance(entry, pickles._Entry):
            assert not isinstance(entry, tuple | list | dict)
            continue
        assert depth(entry.value, 3) <= min(entry.depth, 3)


def test_what_is_shared_a_hundred_times_over_takes_no_time(tmp_path):
    """Two to the power of 95 tuples, if one walked through them: nothing here does."""
    content = b")q\0" + b"h\0h\0\x86q\0" * 95
    assert len(read(content + b".")) == 2
    with pytest.raises(ValueError, match="uses SETITEM, which no test needs here"):
        read(content + b"}h\0K\x01s.")
    for name, message in ((b"numpy\ndtype", "array of dtype"), (b"_codecs\nencode", "encoding")):
        with pytest.raises(ValueError, match=message):
            CALLERS["cifar"](tmp_path, content + b"c" + name + b"\nh\0h\0\x86R.")


# Size and time ------------------------------------------------------------------------------------


MANY = 60_000
GROWING = {  # each makes many more bytes than it takes
    "empty lists": b"(" + b"]" * MANY + b"t.",
    "empty dicts": b"(" + b"}" * MANY + b"l.",
    "lists of one": b"(" + b"]Na" * MANY + b"t.",
    "dicts of one": b"(" + b"}K\1Ns" * MANY + b"t.",
    "entries of a dict": b"}(" + b"".join(b"J" + struct.pack("<i", n) + b"N" for n in range(MANY)),
    "marks": b"(" * MANY,
    "a memo": b"]" + b"\x94" * MANY,
    "tuples of one": b"(" + b")\x85" * MANY,
    "numbers": b"(" + b"G\0\0\0\0\0\0\0\1" * MANY + b"t.",
    "short strings": b"(" + b"C\x02ab" * MANY + b"t.",
    "short texts": b"(" + b"X\x02\0\0\0\xc4\x80" * MANY + b"t.",
    "names": b"(" + b"ca\nname\n" * MANY + b"t.",
    "frames": b"\x95\0\0\0\0\0\0\0\0" * MANY + b"N.",
    "a call": b"X\x02\0\0\0abq\0\x85q\1ca\nf\nq\2(" + b"h\2h\1R" * MANY + b"t.",
    "a call of a text": b"X\0\0\1\0" + b"a" * 65536 + b"q\0\x85q\1ca\nf\nq\2(" + b"h\2h\1R" * 99,
    "a call of a list": b"](" + b"N" * 999 + b"eq\0\x85q\1ca\nf\nq\2(" + b"h\2h\1R" * 999,
    "wide text": b"X\0\0\x10\0\xf0\x9f\x98\x80" + b"a" * ((1 << 20) - 4) + b".",
}  # fmt: skip


@pytest.mark.parametrize("content", GROWING.values(), ids=GROWING)
def test_pickles_make_no_more_than_their_budget(content, monkeypatch):
    monkeypatch.setattr(budget, "ROOM", 1 << 20)
    reader, file = Reader(Budget(len(content), growth=2)), io.BytesIO(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"expected at most [0-9,]+ bytes in memory"):
            reader.read(file)
        assert tracemalloc.get_traced_memory()[1] < 1.3 * (2 * len(content) + (1 << 20))
    finally:
        tracemalloc.stop()


def test_text_comes_back_however_wide():
    for text in ("a" * 99, "é" * 99, "€" * 99, "a😀", "\udc80"):
        content = text.encode("utf-8", "surrogatepass")
        assert read(b"X" + struct.pack("<I", len(content)) + content + b".") == text


@pytest.mark.parametrize("code", [b"B", b"\x8e", b"T", b"X"])
def test_what_is_shorter_than_it_claims_is_refused(code):
    length = b"\xff" * (8 if code == b"\x8e" else 4)
    with pytest.raises(ValueError, match=r"cut short: 3 bytes of \d+"):
        read(code + length + b"abc")


@pytest.mark.parametrize("code", [b"I", b"L", b"F", b"V", b"S", b"P", b"p", b"g", b"i", b"\x8b"])
def test_instructions_of_older_picklers_are_refused_before_their_arguments_are_read(code):
    """Python's own readers of numbers as text take time that grows with the square."""
    file = io.BytesIO(b"N" + code + b"1" * 99)
    with pytest.raises(ValueError, match="which no test needs here"):
        Reader(Budget(99)).read(file)
    assert file.tell() == 2


def test_names_are_short():
    message = "name of more than 255 characters"
    with pytest.raises(ValueError, match=message):
        read(b"c" + b"a" * 200 + b"\n" + b"b" * 200 + b"\n.")
    with pytest.raises(ValueError, match=message):
        read(b"X\xff\0\0\0" + b"a" * 255 + b"X\1\0\0\0b\x93.")


def test_keys_of_one_hash_are_refused():
    """A million keys that share a hash take hours to put into a dict."""
    bits = sys.hash_info.modulus.bit_length()
    with pytest.raises(ValueError, match="uses SETITEM, which no test needs here"):
        read(pickle.dumps({(1 << bits) - 1: 0}, 2))


def test_arrays_of_the_same_bytes_share_their_memory(tmp_path):
    rows, many = 10, 2_000
    data = bytes(rows * 3072)
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R(K\x01M"
    array += bytes([rows, 0]) + b"M\0\x0c\x86cnumpy\ndtype\nC\x02u1K\0K\x01\x87R\x89h\0tb"
    content = b"\x80\x03B" + len(data).to_bytes(4, "little") + data + b"q\0}(C\x04data" + array
    content += b"C\x06labels](" + b"K\x01" * rows + b"e"
    content += b"".join(b"M" + n.to_bytes(2, "little") + array for n in range(many)) + b"u."
    tracemalloc.start()
    try:
        images, labels = CALLERS["cifar"](tmp_path, content)
        assert tracemalloc.get_traced_memory()[1] < 20e6  # of 61 MB, were each one copied
    finally:
        tracemalloc.stop()
    assert images.shape == (rows, 3, 32, 32)
    assert labels.tolist() == [1] * rows
