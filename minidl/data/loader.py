"""Batches: arrays in, tensors out, shuffled by a seeded stream."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minidl.backends import asarray, backend_for
from minidl.checks import check_whole
from minidl.random import generator, restore, state_of, streams
from minidl.tensor import Tensor
from minidl.tensor.operands import tensor_dtype


class DataLoader:
    """Cut arrays of equal length into batches of tensors.

    Args:
        arrays: one or more, such as images and labels; the first axis of each is the examples. They
            are not copied: memory maps stay on disk, and PyTorch's tensors share their memory.
        batch_size: examples per batch, >= 1.
        shuffle: draw a new order for each pass.
        drop_last: drop the last batch if it is smaller.
        transform: applied to each whole batch of the first array, as a NumPy array; it turns
            uint8 images into floats, see `Normalize`.
        rng: the generator to draw orders from; the seeded stream if None.
        device: the device of the tensors.
        prefetch: how many batches a thread makes and moves ahead while the network works, >= 0.
            They are copied from pinned memory while the GPU computes. A transform that draws
            random numbers then needs a generator that nothing else draws from, or the order of
            draws is nondeterministic.
        world: the ranks that share each batch, such as `distributed.world()`: all use rank 0's
            order, and cut every batch of `batch_size` examples into one piece each, nearly equal,
            so batches do not depend on the number of ranks. A small batch may leave a rank an empty
            piece. The transform gets the rank's piece, or one example if that is empty.

    Iterating yields tuples of tensors, one for each array. `len` is the number of batches.
    `state_dict` returns the position of the latest pass, so that it can be resumed.

    Raises:
        ValueError: no arrays, no examples, unequal lengths, a batch size < 1, an unknown device; or
            the ranks' lengths or options differ.
        TypeError: an argument is a list or not an array of real numbers, or `rng` is no generator.

    Example:
        >>> import numpy as np
        >>> loader = DataLoader(np.zeros((5, 2)), np.arange(5), batch_size=2)
        >>> [labels.shape for x, labels in loader]
        [(2,), (2,), (1,)]
    """

    def __init__(
        self,
        *arrays: NDArray[Any],
        batch_size: int = 64,
        shuffle: bool = False,
        drop_last: bool = False,
        transform: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
        rng: np.random.Generator | None = None,
        device: str = "cpu",
        prefetch: int = 0,
        world: Any = None,
    ) -> None:
        arrays = tuple(
            a if isinstance(a, (list, tuple)) else asarray("DataLoader", a) for a in arrays
        )
        if not all(isinstance(array, np.ndarray) and array.ndim for array in arrays):
            raise TypeError(
                f"DataLoader: got {[type(array).__name__ for array in arrays]}, expected NumPy "
                "arrays with an axis of examples, such as train.images, train.labels"
            )
        lengths = [len(array) for array in arrays]
        if len(set(lengths)) != 1 or lengths[0] == 0:
            raise ValueError(
                f"DataLoader: got arrays of lengths {lengths}, expected one or more, all equal"
            )
        check_whole("DataLoader", 1, batch_size=batch_size)
        check_whole("DataLoader", 0, prefetch=prefetch)
        backend_for(device)  # fail early on an unknown device, or a seed as rng
        generator(rng)
        self.arrays, self.batch_size, self.shuffle = arrays, int(batch_size), shuffle
        self.drop_last, self.transform, self.device = drop_last, transform, device
        self.prefetch, self._rng, self.world = int(prefetch), rng, world
        self._position: dict[str, Any] = {"taken": 0, "order": None, "streams": None}
        self._resumed = False
        if world is not None:
            options = f"shuffle={shuffle}, drop_last={drop_last}"
            world.agree(f"DataLoader of {lengths} examples, batch_size={batch_size}, {options}")

    def __len__(self) -> int:
        examples = len(self.arrays[0])
        return examples // self.batch_size if self.drop_last else -(-examples // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        first = self._position["taken"] if self._resumed else 0
        position = {"taken": first, "order": None, "streams": None}
        order = np.arange(len(self.arrays[0]))
        if self.shuffle:
            stream = generator(self._rng).bit_generator
            now = stream.state
            if self._resumed:
                restore([generator(self._rng)], [self._position["order"]])
            position["order"] = stream.state
            order = self._shuffled(generator(self._rng))
            if self._resumed:  # the draws after the order were made before the pass stopped
                stream.state = now
            if self.world is not None:
                order = self.world.shared_order(order, self._position["order"] is None)
        self._position, self._resumed = position, False
        batches = (self._batch(order, number) for number in range(first, len(self)))
        return (self._ahead if self.prefetch else self._counted)(batches, position)

    def _shuffled(self, rng: np.random.Generator) -> NDArray[Any]:
        """Draw an order of the examples."""
        return rng.permutation(len(self.arrays[0]))

    def _counted(
        self, batches: Iterator[list[NDArray[Any]]], position: dict[str, Any]
    ) -> Iterator[tuple[Tensor, ...]]:
        for batch in batches:
            position["taken"] += 1
            yield tuple(Tensor(array, device=self.device) for array in batch)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the latest pass.

        Returns:
            The number of batches `"taken"`, the generator state that their `"order"` was drawn
            from, and the states of the transform's `"streams"` after the last batch that was
            handed out, even if more were made ahead.
        """
        now = [state_of(stream) for stream in streams(self.transform)]
        return self._position | {"streams": self._position["streams"] or now}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass resume after the batches taken, and set the transform's streams.

        Raises:
            ValueError: the state is of a loader of another kind, or has too many batches taken.
        """
        own = streams(self.transform)
        try:
            taken, order, states = state["taken"], state["order"], state["streams"]
            check_whole("taken", 0, taken=taken)
            if taken > len(self) or len(states) > len(own) or self.shuffle != (order is not None):
                raise ValueError("it does not fit")
            restore(copy.deepcopy([generator(self._rng)] * self.shuffle), [order])  # only tries
            restore(copy.deepcopy(own), states)
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"DataLoader.load_state_dict: got {state!r:.200}, expected the state of a "
                f"loader with shuffle={self.shuffle}, up to {len(self)} batches taken, and "
                f"{len(own)} streams ({error})"
            ) from error
        restore(own, states)
        self._position, self._resumed = dict(state), True

    def _batch(self, order: NDArray[Any], number: int) -> list[NDArray[Any]]:
        """Return the arrays of one batch, on the host."""
        chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
        if self.world is not None:
            chosen = np.array_split(chosen, self.world.size)[self.world.rank]
        first, *rest = (array[chosen] for array in self.arrays)
        if self.transform is not None:
            one = self.arrays[0][order[:1]]  # transforms need not know empty batches
            first = self.transform(first) if len(first) else self.transform(one)[:0]
        return [first, *rest]

    def _ahead(
        self, batches: Iterator[list[NDArray[Any]]], position: dict[str, Any]
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield batches that a thread makes, and starts to move to the device, ahead of time."""
        from concurrent.futures import ThreadPoolExecutor  # imported on use: it imports logging

        backend = backend_for(self.device)
        own = streams(self.transform)
        position["streams"] = [state_of(stream) for stream in own]

        def make() -> tuple[list[Callable[[], NDArray[Any]]], list[Any]] | None:
            batch = next(batches, None)
            if batch is None:
                return None
            for array in batch:
                tensor_dtype("DataLoader", array.dtype)
            states = [state_of(stream) for stream in own]
            return [backend.send(array) for array in batch], states

        context = copy_context()  # with NumPy's error state, recording and others
        with ThreadPoolExecutor(1, "minidl-loader") as thread:
            made = deque(thread.submit(context.run, make) for _ in range(self.prefetch))
            while (found := made.popleft().result()) is not None:
                made.append(thread.submit(context.run, make))
                taking, position["streams"] = found
                position["taken"] += 1
                yield tuple(Tensor.wrap(take()) for take in taking)


class Normalize:
    """Turn uint8 images into float32 with mean 0 and standard deviation 1 in each channel.

    `(pixel - mean) / std`: networks train best on such inputs. Fit it to the training images only,
    and apply it to the test images too.

    Args:
        mean: `(c,)`, in the pixels' unit, 0 <= mean <= 255.
        std: `(c,)`, in the same unit, > 0.

    Example:
        >>> import numpy as np
        >>> images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
        >>> Normalize.fit(images)(images).ravel()
        array([-1.,  1.], dtype=float32)
    """

    def __init__(self, mean: NDArray[Any], std: NDArray[Any]) -> None:
        if np.shape(mean) != np.shape(std) or np.ndim(mean) != 1 or not np.all(np.asarray(std) > 0):
            raise ValueError(
                f"Normalize: got mean={mean}, std={std}, expected shapes (c,) and std > 0"
            )
        self.mean, self.std = np.asarray(mean), np.asarray(std)

    @classmethod
    def fit(cls, images: NDArray[Any]) -> Normalize:
        """Compute mean and standard deviation of each channel of uint8 images `(n, c, h, w)`."""
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(
                f"Normalize.fit: got {images.dtype} of shape {images.shape}, expected uint8 images "
                "of shape (n, c, h, w)"
            )
        counts = [np.bincount(channel.ravel(), minlength=256) for channel in images.swapaxes(0, 1)]
        shares = np.array(counts) / images[:, 0].size  # (c, 256): exact, and few values to sum
        mean = shares @ np.arange(256)
        return cls(mean, np.sqrt(shares @ np.arange(256) ** 2 - mean**2))

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """Normalise uint8 images `(n, c, h, w)`."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != len(self.mean):
            raise ValueError(
                f"Normalize: got {images.dtype} images of shape {images.shape}, expected uint8 "
                f"of shape (n, {len(self.mean)}, h, w)"
            )
        lines = (1 / self.std, self.mean / self.std)
        slope, offset = (values.astype(np.float32)[:, None, None] for values in lines)  # (c, 1, 1)
        scaled: NDArray[Any] = images * slope - offset
        return scaled
