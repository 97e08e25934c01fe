import functools
import random
import threading
import time

import numpy as np
import pytest

import minidl
from minidl.data import DataLoader, ImageSet, Normalize
from minidl.random import restore, state_of, streams

MODULE_STREAM = np.random.default_rng(9)


def labels_of(loader):
    return [y.numpy().tolist() for _, y in loader]


def test_a_loader_covers_every_example_once_in_order():
    x, y = np.arange(10.0).reshape(5, 2), np.arange(5)
    batches = list(DataLoader(x, y, batch_size=2))
    assert [b[1].numpy().tolist() for b in batches] == [[0, 1], [2, 3], [4]]
    np.testing.assert_array_equal(np.concatenate([b[0].numpy() for b in batches]), x)
    assert batches[0][1].dtype == np.int64
    assert batches[0][0].dtype == np.float64


def test_drop_last_leaves_out_the_smaller_batch():
    loader = DataLoader(np.arange(5), np.arange(5), batch_size=2, drop_last=True)
    assert len(loader) == 2
    assert labels_of(loader) == [[0, 1], [2, 3]]


def test_len_counts_the_batches():
    assert len(DataLoader(np.arange(5), batch_size=2)) == 3
    assert len(DataLoader(np.arange(4), batch_size=2)) == 2
    assert len(DataLoader(np.arange(4), batch_size=np.int64(2), prefetch=np.int64(1))) == 2


def test_shuffling_draws_a_new_order_each_pass_and_keeps_pairs_together():
    x = np.arange(100)
    loader = DataLoader(x, 10 * x, batch_size=7, shuffle=True, rng=np.random.default_rng(0))
    first, second = (
        [(a, b) for xs, ys in loader for a, b in zip(xs.numpy(), ys.numpy(), strict=True)]
        for _ in range(2)
    )
    assert first != second
    assert sorted(first) == sorted(second) == [(i, 10 * i) for i in range(100)]


def test_the_same_seed_gives_the_same_batches():
    def orders():
        minidl.manual_seed(3)
        loader = DataLoader(np.arange(50), np.arange(50), shuffle=True, batch_size=8)
        return labels_of(loader), labels_of(loader)

    assert orders() == orders()


def test_the_transform_gets_whole_batches_of_the_first_array():
    seen = []

    def transform(batch):
        seen.append(batch.shape)
        return batch * 2

    (x, y), _ = DataLoader(np.ones((5, 3)), np.ones(5), batch_size=3, transform=transform)
    assert seen == [(3, 3), (2, 3)]
    assert (x.numpy() == 2).all()
    assert (y.numpy() == 1).all()


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ([], {}, r"lengths \[\]"),
        ([np.ones(3), np.ones(4)], {}, r"lengths \[3, 4\]"),
        ([np.ones(0)], {}, r"lengths \[0\]"),
        ([np.ones(3)], {"batch_size": 0}, "batch_size=0"),
        ([np.ones(3)], {"batch_size": 2.0}, r"batch_size=2\.0"),
        ([np.ones(3)], {"batch_size": True}, "batch_size=True"),
    ],
)
def test_a_loader_refuses_what_it_cannot_cut(arrays, options, message):
    with pytest.raises(ValueError, match=r"DataLoader: got .*" + message):
        DataLoader(*arrays, **options)


def test_normalised_images_have_mean_0_and_deviation_1_per_channel():
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8)).astype(np.uint8)
    images[:, 1] //= 4
    out = Normalize.fit(images)(images)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std((0, 2, 3)), 1, atol=1e-5)


def test_fitted_statistics_are_those_of_the_pixels():
    images = np.random.default_rng(1).integers(0, 256, (7, 3, 5, 4)).astype(np.uint8)
    fitted = Normalize.fit(images)
    np.testing.assert_allclose(fitted.mean, images.mean((0, 2, 3)))
    np.testing.assert_allclose(fitted.std, images.std((0, 2, 3)))


def test_normalise_refuses_floats_and_other_channels():
    fitted = Normalize(np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match=r"Normalize: got float32 images .* expected uint8"):
        fitted(np.zeros((1, 3, 2, 2), np.float32))
    with pytest.raises(
        ValueError, match=r"shape \(1, 1, 2, 2\), expected uint8 of shape \(n, 3, h, w\)"
    ):
        fitted(np.zeros((1, 1, 2, 2), np.uint8))


def test_normalise_refuses_a_channel_without_spread():
    with pytest.raises(ValueError, match=r"Normalize: got mean=.* std > 0"):
        Normalize.fit(np.zeros((2, 3, 4, 4), np.uint8))


def test_first_takes_images_and_labels_alike():
    images = ImageSet(np.zeros((5, 3, 2, 2), np.uint8), np.arange(5), ("a", "b"))
    few = images.first(2)
    assert (len(few.images), few.labels.tolist(), few.classes) == (2, [0, 1], ("a", "b"))


@pytest.mark.parametrize("arrays", [[[1, 2, 3]], [np.float32(3)], [minidl.ones(3)]])
def test_a_loader_refuses_what_is_no_array(arrays):
    with pytest.raises(
        TypeError, match=r"DataLoader: got (\['\w+'\], expected NumPy|a Tensor, .*\.numpy)"
    ):
        DataLoader(*arrays)


def test_a_loader_refuses_seeds_and_unknown_devices_at_once():
    with pytest.raises(TypeError, match=r"rng=3, expected a numpy\.random\.Generator"):
        DataLoader(np.ones(3), rng=3)
    with pytest.raises(ValueError, match="device='gpu', expected 'cpu' or 'cuda'"):
        DataLoader(np.ones(3), device="gpu")


def test_normalise_cannot_be_fitted_to_floats():
    with pytest.raises(ValueError, match=r"Normalize\.fit: got float64 of shape"):
        Normalize.fit(np.ones((2, 3, 4, 4)))


# Batches made ahead


@pytest.mark.parametrize("prefetch", [1, 2, 50])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_made_ahead_are_the_same(prefetch, drop_last, device):
    images, labels = np.random.default_rng(0).random((23, 3), np.float32), np.arange(23)

    def passes(**options):
        loader = DataLoader(
            *(images, labels),
            **{"batch_size": 4, "shuffle": True, "drop_last": drop_last, "device": device},
            **{"rng": np.random.default_rng(1), "transform": lambda x: x * 2},
            **options,
        )
        return [list(batch) for _ in range(2) for batch in loader]

    ahead, plain = passes(prefetch=prefetch), passes()
    assert len(ahead) == len(plain) == (10 if drop_last else 12)
    for batch, wanted in zip(ahead, plain, strict=True):
        for mine, other in zip(batch, wanted, strict=True):
            assert (mine.device, mine.dtype) == (device, other.dtype)
            np.testing.assert_array_equal(mine.numpy(), other.numpy())


def test_the_next_batch_is_made_while_the_last_is_worked_on():
    made = []

    def transform(x):
        made.append(len(made))
        return x

    batches = iter(DataLoader(np.zeros((6, 1), "f"), batch_size=1, transform=transform, prefetch=2))
    next(batches)
    deadline = time.monotonic() + 20
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert made == [0, 1, 2]
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("minidl-loader")]


def test_an_error_in_a_batch_made_ahead_is_raised():
    def transform(x):
        raise ZeroDivisionError("in a transform")

    loader = DataLoader(np.zeros((6, 1), "f"), transform=transform, prefetch=1)
    with pytest.raises(ZeroDivisionError, match="in a transform"):
        list(loader)


def test_a_batch_made_ahead_is_of_a_dtype_that_tensors_have():
    loader = DataLoader(np.zeros((6, 1), np.float16), prefetch=1)
    with pytest.raises(
        TypeError, match="DataLoader: got dtype float16, expected float32 or float64"
    ):
        list(loader)


@pytest.mark.parametrize("prefetch", [-1, 1.0, True, None])
def test_prefetch_is_a_whole_number(prefetch):
    with pytest.raises(ValueError, match=r"DataLoader: got prefetch=.*, expected an integer >= 0"):
        DataLoader(np.zeros(3), prefetch=prefetch)


# Going on in the middle of a pass


class Shift:
    """A transform that draws."""

    def __init__(self, rng):
        self.rng = rng

    def __call__(self, x):
        return x + self.rng.random()


@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("taken", [0, 1, 4, 6])
def test_a_pass_goes_on_where_its_state_was_taken(prefetch, taken):
    def loader():
        transform, order = Shift(np.random.default_rng(1)), np.random.default_rng(2)
        arrays = np.arange(30.0), np.arange(30)
        options = {"batch_size": 5, "shuffle": True, "prefetch": prefetch}
        return DataLoader(*arrays, transform=transform, rng=order, **options)

    def values(batches):
        return [x.numpy().tolist() for x, _ in batches]

    unbroken = loader()
    expected = [values(unbroken) for _ in range(3)]
    stopped = loader()
    list(stopped)
    batches = iter(stopped)
    assert values(next(batches) for _ in range(taken)) == expected[1][:taken]
    state = stopped.state_dict()
    assert state["taken"] == taken
    after = stopped._rng.bit_generator.state
    again = loader()
    again._rng.bit_generator.state = after  # it is the run that keeps this stream, not the loader
    again.load_state_dict(state)
    assert values(again) == expected[1][taken:]
    assert values(again) == expected[2]


def test_a_loader_refuses_the_state_of_another():
    x = np.arange(10)
    plain, shuffled = DataLoader(x, batch_size=5), DataLoader(x, batch_size=5, shuffle=True)
    iter(shuffled)
    with pytest.raises(ValueError, match=r"load_state_dict: got .* with shuffle=False"):
        plain.load_state_dict(shuffled.state_dict())
    with pytest.raises(ValueError, match=r"got \{\}, expected the state of a loader"):
        plain.load_state_dict({})
    for taken in ("1", 0.5, -1, 3):
        with pytest.raises(ValueError, match="up to 2 batches taken"):
            plain.load_state_dict(plain.state_dict() | {"taken": taken})
    longer = DataLoader(x, batch_size=1)
    batches = iter(longer)
    for _ in range(3):
        next(batches)
    with pytest.raises(ValueError, match=r"got \{'taken': 3, .* up to 2 batches taken, and 0"):
        plain.load_state_dict(longer.state_dict())


# Streams


def test_streams_are_found_wherever_objects_keep_them():
    a, b, c, d, e = (np.random.default_rng(seed) for seed in range(5))

    def closure(x):
        return x + b.random()

    class Layer:
        def __init__(self):
            self.deep = {"list": [(c, closure)]}

        def method(self, x):
            return x

    def default(x, rng=d):
        return rng.random() + MODULE_STREAM.random()

    found = streams(functools.partial(max, key=a), Layer().method, default, Layer, np, 3, "rng")
    assert [id(s) for s in found] == [id(s) for s in (a, c, b, MODULE_STREAM, d)]
    assert streams(e, [e], {"e": e}) == [e]


def test_an_rng_that_is_none_stands_for_the_seeded_stream():
    seeded = minidl.manual_seed(3)
    assert streams(minidl.nn.Dropout(0.5)) == [seeded]
    assert streams(Shift(None)) == [seeded]
    assert streams(minidl.nn.ReLU()) == []


def test_older_streams_are_found_and_come_last():
    old, older = np.random.RandomState(1), random.Random(2)
    new = np.random.default_rng(3)
    assert streams([old, older], {"rng": new}, random.SystemRandom()) == [new, old, older]
    assert streams(old.rand, older.shuffle) == [old, older]


def drawn_inside(x):
    return [(lambda: np.random.rand())() for _ in x]  # noqa: NPY002


def test_modules_streams_are_found_where_functions_draw_from_them():
    of_numpy, of_python = np.random.rand.__self__, random.random.__self__

    class Made:
        def __init__(self):
            self.own = np.random.default_rng(0)

        def __call__(self, x):
            return x + self.own.random() * np.ones(3)

    made = Made()
    assert streams(made) == [made.own]  # not NumPy's global stream: nothing draws from it
    assert streams(lambda: random.Random(3)) == []
    assert streams(lambda x: np.random.normal(x)) == [of_numpy]  # noqa: NPY002
    assert streams(drawn_inside, np.random.shuffle) == [of_numpy]
    assert streams(lambda x: random.choice(x)) == [of_python]


def test_states_of_all_kinds_of_streams_are_restored():
    found = [np.random.default_rng(1), np.random.RandomState(1), random.Random(1)]

    def draw():
        new, old, older = found
        return new.normal(), old.randn(), older.gauss(0, 1)

    draw()  # the older two keep a second normal number
    states = [state_of(stream) for stream in found]
    expected = [draw() for _ in range(3)]
    restore(found, states)
    assert [draw() for _ in range(3)] == expected


class Pen:
    """Draws from its own stream, and from one to which only its method refers."""

    __slots__ = ("rng", "unset")

    def __init__(self, rng):
        self.rng = rng

    def __call__(self, x):
        return x + METHOD_STREAM.random()

    marks = staticmethod(lambda: [CLASS_STREAM.random() for _ in range(3)])


METHOD_STREAM, CLASS_STREAM = np.random.default_rng(1), np.random.default_rng(2)


@pytest.mark.parametrize("position", [-1, 625, 10**6, 2**31 - 1, 2**70, 1.5, None, "x"])
def test_positions_beyond_a_stream_s_buffer_are_refused(position):
    """NumPy takes them, and ends the interpreter at the next draw."""
    for stream in (np.random.Generator(np.random.MT19937(1)), np.random.RandomState(1)):
        state = state_of(stream)
        state["state"]["pos"] = position
        with pytest.raises(ValueError, match=r"got no valid state of a (Generator|RandomState) \("):
            restore([stream], [state])
    philox = np.random.Generator(np.random.Philox(1))
    with pytest.raises(ValueError, match="got no valid state of a Generator"):
        restore([philox], [state_of(philox) | {"buffer_pos": position}])


@pytest.mark.parametrize(
    "change",
    [
        {"state": None}, {"state": {}}, {"uinteger": 2**70}, {"has_uint32": None},
        {"state": {"state": -1, "inc": 1}}, {"bit_generator": "MT19937"},
    ],
)  # fmt: skip
def test_states_that_are_none_are_refused_with_a_value_error(change):
    stream = np.random.default_rng(1)
    for state in (state_of(stream) | change, [1], None, 3, "x"):
        with pytest.raises(ValueError, match="got no valid state of a Generator"):
            restore([stream], [state])
        with pytest.raises(ValueError, match="got no valid state of a Random"):
            restore([random.Random(1)], [state])
    loader = DataLoader(np.zeros((4, 2)), batch_size=2, shuffle=True)
    with pytest.raises(ValueError, match="got no valid state of a Generator"):
        loader.load_state_dict({"taken": 1, "order": state_of(stream) | change, "streams": []})
    assert [len(batch) for (batch,) in loader] == [2, 2]


def test_streams_are_found_in_slots_methods_and_inner_functions():
    a, b = np.random.default_rng(3), np.random.default_rng(4)
    assert streams(Pen(a)) == [a, METHOD_STREAM, CLASS_STREAM]
    assert streams(Pen(None)) == [METHOD_STREAM, CLASS_STREAM, minidl.random.generator()]
    assert streams(Pen) == [METHOD_STREAM, CLASS_STREAM]
    assert streams(lambda x: [(lambda: MODULE_STREAM.random()) for _ in x]) == [MODULE_STREAM]
    assert streams(a.normal, functools.partial(b.normal, 1.0)) == [a, b]

    @functools.wraps(minidl.functional.relu)  # sets __module__ to minidl's
    def wrapped(x):
        return MODULE_STREAM.random() + x

    assert streams(wrapped) == [MODULE_STREAM]


def test_a_search_for_streams_survives_every_object():
    a = np.random.default_rng(0)

    class Proxy:
        """Raise on every access, like a proxy without an object."""

        def __getattribute__(self, name):
            raise RuntimeError(name)

    class Odd(dict):
        values = get = keys = __iter__ = None

        @property
        def __dict__(self):
            raise RuntimeError

    class Listed(list):
        def __iter__(self):
            raise RuntimeError

    def open_cell():
        return a.random() + later

    if a is None:
        later = 0
    made: dict = {"__builtins__": __builtins__}
    exec("def homeless(x, rng=[]):\n    return stream.random()", made)
    made["stream"] = made["homeless"].__defaults__[0].append(a) or a
    made["homeless"].__module__ = None
    circle: list = [Proxy(), len, print, np.add, type, iter([]), Odd(x=1), object()]
    circle += [circle, {"again": circle}]
    assert streams(circle) == []
    assert streams(Odd(x=a), circle) == [a]
    assert streams(Listed([a]), circle) == [a]
    assert streams(circle, made["homeless"]) == [a]
    assert streams(open_cell) == [a]


def test_a_search_for_streams_is_bounded_and_comes_to_long_lists_last():
    a, b = np.random.default_rng(0), np.random.default_rng(1)
    words = {f"word {i}": i for i in range(100_000)}  # costs nothing
    nested = [[0.5] for _ in range(100_000)]
    with pytest.warns(UserWarning, match=r"ended after 50,000 objects, before a list: .* arrays"):
        assert streams([nested, words, a]) == [a]
    few = [[0.5] for _ in range(2_000)]
    assert streams([[*few, b], words, a]) == [a, b]
