"""Loaders over ranks: the same batches for any number of ranks, each rank its share."""

from __future__ import annotations

import numpy as np
import pytest

from minidl.data import BucketLoader, DataLoader
from minidl.distributed import World

from .helpers.ranks import needs_mpi, run_ranks


class Share(World):
    """A rank whose collectives are never called."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self.rank, self.size = rank, size

    def shared_order(self, order: np.ndarray, is_first: bool) -> np.ndarray:
        return order


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("drop_last", [False, True])
def test_shares_make_up_the_batches(size, drop_last):
    x = np.arange(22)

    def batches(**options):
        loader = DataLoader(
            *(x, -x), batch_size=4, shuffle=True, drop_last=drop_last, rng=rng(), **options
        )
        return [batch for _ in range(2) for batch in loader], len(loader)

    def rng():
        return np.random.default_rng(3)

    whole, count = batches()
    shares = [batches(world=Share(rank, size)) for rank in range(size)]
    assert [length for _, length in shares] == [count] * size
    for i, (a, b) in enumerate(whole):
        for array, place in ((a, 0), (b, 1)):
            parts = [found[i][place].numpy() for found, _ in shares]
            assert np.concatenate(parts).tolist() == array.numpy().tolist()
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_transform_never_sees_an_empty_batch(prefetch):
    sizes = []

    def halve(images):
        sizes.append(len(images))
        return images / np.float32(images.max())

    x = np.ones((5, 2), np.uint8)
    loader = DataLoader(
        x, np.arange(5), batch_size=2, transform=halve, prefetch=prefetch, world=Share(1, 2)
    )
    shapes = [(a.shape, a.dtype.name, b.shape) for a, b in loader]
    assert shapes == [((1, 2), "float32", (1,))] * 2 + [((0, 2), "float32", (0,))]
    assert min(sizes) == 1


def test_a_share_of_sentences_is_as_long_as_the_batch():
    words = np.array([[1, 2, 3, 0], [1, 0, 0, 0]])
    loaders = [
        BucketLoader(words, np.arange(2), batch_size=2, world=Share(rank, 2)) for rank in (0, 1)
    ]
    assert [batch.shape for loader in loaders for batch, _ in loader] == [(1, 3), (1, 3)]
    with pytest.raises(TypeError, match="transform"):
        BucketLoader(words, np.arange(2), transform=np.abs)


def test_the_position_does_not_depend_on_the_number_of_ranks():
    x = np.arange(20)

    def loader(seed, **options):
        return DataLoader(x, batch_size=3, shuffle=True, rng=np.random.default_rng(seed), **options)

    first = loader(1, world=Share(0, 2))
    iterator = iter(first)
    [next(iterator) for _ in range(2)]
    whole = [batch.numpy() for (batch,) in loader(1)]
    for size in (1, 3):
        rest = []
        for rank in range(size):
            resumed = loader(9, world=Share(rank, size))
            resumed.load_state_dict(first.state_dict())
            rest.append([batch.numpy() for (batch,) in resumed])
        found = [np.concatenate(shares) for shares in zip(*rest, strict=True)]
        assert [a.tolist() for a in found] == [a.tolist() for a in whole[2:]]


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_all_ranks_use_the_order_of_rank_0(ranks, prefetch):
    run_ranks(
        ranks,
        f"""
        import warnings
        x, rng = np.arange(23), np.random.default_rng(world.rank)
        loader = data.DataLoader(
            x, batch_size=5, shuffle=True, rng=rng, prefetch={prefetch}, world=world
        )
        alone = data.DataLoader(x, batch_size=5, shuffle=True, rng=np.random.default_rng(0))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                shares = world.all_gather([batch.numpy() for (batch,) in loader])
                for (whole,), *parts in zip(alone, *shares, strict=True):
                    assert np.concatenate(parts).tolist() == whole.numpy().tolist()
        said = [str(w.message) for w in caught]
        assert len(said) == (world.rank == 0), said
        assert world.rank or ("rank 1" in said[0] and "rank 0's" in said[0])
        # The same seed on every rank: no warning, and equal streams remain equal.
        rng = np.random.default_rng(5)
        for _ in data.DataLoader(x, batch_size=5, shuffle=True, rng=rng, world=world):
            pass
        assert len(set(world.all_gather(str(rng.bit_generator.state)))) == 1
        """,
    )


@needs_mpi
@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (
            "x[r:], batch_size=2",
            "[5] examples",
        ),
        ("x, batch_size=2 + r", "batch_size=3"),
        ("x, shuffle=bool(r)", "shuffle=True"),
        ("x, drop_last=bool(r)", "drop_last=True"),
    ],
)
def test_ranks_with_different_loaders_raise_one_error(options, shown):
    done = run_ranks(
        2,
        f"x, r = np.arange(6), world.rank\ndata.DataLoader({options}, world=world)",
        fails=True,
        seconds=20,
    )
    assert "the ranks differ: rank 0: DataLoader of [6] examples" in done.err
    assert shown in done.err
    assert done.err.count("Traceback") == 1


@needs_mpi
def test_evaluation_and_predictions_are_those_of_all_examples():
    run_ranks(
        3,
        """
        minidl.manual_seed(0)
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(25, 4)), rng.integers(0, 3, 25)
        y[::4] = -100
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype=np.float64)
        shared = data.DataLoader(x, y, batch_size=8, world=world)
        alone = data.DataLoader(x, y, batch_size=8)
        for loss in (F.cross_entropy, lambda a, b: F.cross_entropy(a, b, reduction="sum")):
            one, all_ = (training.evaluate(net, loss, loader) for loader in (alone, shared))
            assert abs(one.mean_loss() - all_.mean_loss()) < 1e-12 * max(1, one.mean_loss())
            assert (one.seen, one.right, one.labels) == (all_.seen, all_.right, all_.labels)
        own, found = training.predict(net, alone), training.predict(net, shared)
        assert found.shape == (25, 3) and np.abs(own - found).max() < 1e-12
        """,
    )
