"""The CuPy backend for NVIDIA GPUs.

Formulas run unchanged on CuPy's arrays; `kernels.cu` replaces what CuPy's own functions do badly,
and cuBLAS multiplies matrices. Work is put into CuPy's current stream, in program order, and the
host continues at once: see `deferred.py`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.backends.base import Array, Update
from minidl.backends.cuda import cublas, nccl, setup
from minidl.backends.cuda.deferred import DeferringBackend
from minidl.backends.cuda.setup import choices, tell_cupy
from minidl.backends.windows import Windows

THREADS = 256  # per block
MOST_BLOCKS = 2**20  # per launch: each thread loops over further elements
SCRATCH_BYTES = 2**30  # per slice of a batch: without a limit, a large batch fills the GPU

ROW, NUMBERS = 16, 6  # words in a row of an optimiser's table; index of the first number

C_NAMES = {"float32": "float", "float64": "double", "uint8": "unsigned char", "int32": "int"}
_FLOATS = ("float", "double")
_PLAIN = (
    *("gather_windows", "scatter_windows", "sum_windows", "spread_windows", "gated", "bias_relu"),
    *("index_add", "index_add_in_order", "sgd", "adam", "rmsprop"),
)
_OF_WINNERS = ("max_windows", "scatter_winners", "gather_winners")
EXPRESSIONS = tuple(
    [f"{name}<{real}>" for name in _PLAIN for real in _FLOATS]
    + [
        f"{n}<{real}, {w}>"
        for n in _OF_WINNERS
        for real in _FLOATS
        for w in ("unsigned char", "int")
    ]
)
"""Every kernel, with all its template arguments."""


def describe() -> list[tuple[str, str]]:
    """Describe CuPy, the driver and the GPU, or say what is wrong with them."""
    rows = [("CuPy packages", ", ".join(setup.installed()) or "none")]
    try:
        cupy = setup.load_cupy()
    except RuntimeError as error:
        return [*rows, ("device 'cuda'", f"not usable: {error}")]
    runtime = cupy.cuda.runtime
    gpu = runtime.getDeviceProperties(cupy.cuda.Device().id)
    free, total = runtime.memGetInfo()
    return [
        *rows,
        ("CuPy", f"{cupy.__version__}, CUDA {setup.version(runtime.runtimeGetVersion())}"),
        ("driver", f"up to CUDA {setup.version(runtime.driverGetVersion())}"),
        ("GPU", f"{gpu['name'].decode()}, compute capability {gpu['major']}.{gpu['minor']}"),
        ("GPU memory", f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"),
        ("products", "cuBLAS, called directly" if _blas(cupy) else "cuBLAS, through CuPy"),
        ("TF32", "on" if choices.tf32 else "off"),
    ]


# Parts of the backend -------------------------------------------------------------------------


def _blas(cupy: Any) -> cublas.Blas | None:
    """Return cuBLAS, or None if it is not found: CuPy then computes the products."""
    handle = cupy.cuda.get_cublas_handle  # creating a handle loads the library
    handle()
    library = cublas.load(cupy.cuda.runtime.runtimeGetVersion() // 1000)
    if library is None:
        return None
    return cublas.Blas(
        library, handle, lambda: cupy.cuda.get_current_stream().ptr, lambda array: array.data.ptr
    )


def _kernels(cupy: Any) -> Callable[..., None]:
    """Return the launcher of `kernels.cu`'s kernels: `launch(expression, blocks, arguments)`."""
    text = Path(__file__).with_name("kernels.cu").read_text(encoding="utf-8")
    module = cupy.RawModule(code=text, options=("-std=c++14",), name_expressions=EXPRESSIONS)
    functions: dict[str, Any] = {}

    def launch(expression: str, blocks: tuple[int, int], arguments: Sequence[Any]) -> None:
        if expression not in functions:
            functions[expression] = module.get_function(expression)
        functions[expression](blocks, (THREADS,), tuple(arguments))

    return launch


@functools.lru_cache(maxsize=256)
def _geometry(w: Windows) -> tuple[np.int32, ...]:
    """Return the geometry of windows as kernel arguments."""
    fields = (
        *(w.in_h, w.in_w, w.k_h, w.k_w, w.stride_h, w.stride_w, w.dilation_h, w.dilation_w),
        *(w.top, w.left, w.out_h, w.out_w),
    )
    return tuple(np.int32(field) for field in fields)


def _strided(x: Array) -> tuple[Any, ...]:
    """Return a 4-d array and its strides, in elements."""
    return (x, *(np.int64(stride // x.itemsize) for stride in x.strides))


def _written(x: Array) -> tuple[Any, ...]:
    """Return output images as kernel arguments: memory, number of elements, and order."""
    return x, np.int64(x.size), np.int32(x.strides[1] == x.itemsize)


class CupyBackend(DeferringBackend):
    """Kernels run on the whole batch at once, up to 1 GiB of scratch memory.

    Images that need more for their columns are convolved in blocks: see `blocks`.

    Args:
        xp: CuPy; None imports and checks it.
        launch: launches kernels; by default those of `kernels.cu`.
        blas: multiplies matrices; by default cuBLAS.
    """

    device = "cuda"
    block_bytes = SCRATCH_BYTES // 8

    def __init__(
        self,
        xp: Any = None,
        launch: Callable[..., None] | None = None,
        blas: cublas.Blas | None = None,
    ) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._copies: Any = None  # the stream that `send` copies in
        self._taken: Any = None  # an event after the last `take`'s copy
        self._workspace: Array | None = None
        self._outside: Any = None  # the stream and the allocator around a recording
        self.xp, self._launch, self._blas = xp, launch, blas
        if xp is None:
            self.xp = setup.load_cupy()
            self._launch, self._blas = _kernels(self.xp), _blas(self.xp)
            tell_cupy(self.xp)
            setup.explain_lack_of_memory(self.xp)

    def _run(self, name: str, count: int, *arguments: Any, also: Any = None) -> None:
        """Run a kernel on `count` elements of its first argument's dtype, and of `also`'s."""
        if not count:
            return
        dtypes = [arguments[0].dtype] if also is None else [arguments[0].dtype, also.dtype]
        form = ", ".join(C_NAMES[dtype.name] for dtype in dtypes)
        blocks = min(-(-count // THREADS), MOST_BLOCKS)
        assert self._launch is not None
        self._launch(f"{name}<{form}>", (blocks, 1), arguments)

    # Transfer ---------------------------------------------------------------------------------

    def _moved_here(self, array: np.ndarray[Any, Any]) -> Array:
        return self.xp.asarray(array)

    def _moved_to_host(self, array: Array) -> np.ndarray[Any, Any]:
        copy: np.ndarray[Any, Any] = self.xp.asnumpy(array)
        return copy

    def send(self, array: np.ndarray[Any, Any]) -> Callable[[], Array]:
        """Start copying an array to the GPU through pinned memory, while the GPU computes.

        The copy goes through memory that belongs to the copy stream. It is freed once `take` has
        made its own copy, and may then be reused: hence the lock and the two events.
        """
        cuda = self.xp.cuda
        with self._lock, setup.own_gpu(cuda):
            if self._copies is None:
                self._copies = cuda.Stream(non_blocking=True)
            if self._taken is not None:
                self._copies.wait_event(self._taken)
            with self._copies:
                staged = [self.xp.asarray(array)]  # through pinned memory, without waiting
                arrived = self._copies.record()

        def take() -> Array:
            with self._lock:
                stream = cuda.get_current_stream()
                stream.wait_event(arrived)
                moved = staged.pop().copy()
                self._taken = stream.record()
            return moved

        return take

    def connect(self, ranks: Any) -> nccl.Nccl | None:
        """Return NCCL, connected to the other ranks' GPUs; warn and return None if it cannot be."""
        return nccl.connected(self, setup.load_nccl(), ranks)

    # Products and slices ----------------------------------------------------------------------

    def over_batch(
        self, n: int, shape: Sequence[int], dtype: Any, work: Callable[[slice], None]
    ) -> None:
        """Call `work` on the whole batch, or on as few slices as the scratch limit allows."""
        bytes_each = math.prod(shape) * np.dtype(dtype).itemsize
        size = max(1, SCRATCH_BYTES // max(1, bytes_each))
        for start in range(0, n, size):
            work(slice(start, min(start + size, n)))
        if not n:
            work(slice(0, 0))

    def product(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """Multiply matrices with cuBLAS directly if possible; see `cublas.py`."""
        if self._blas is None or not self._blas.takes(a, b):
            return super().product(a, b, out)
        copy = self.xp.ascontiguousarray
        a, b = (copy(x) if cublas.layout(x)[0] == cublas.COPY else x for x in (a, b))
        target = out
        if out is None or cublas.layout(out)[0] != cublas.AS_IT_IS:
            target = self.xp.empty((*a.shape[:-1], b.shape[-1]), a.dtype)
        self._blas.multiply(a, b, target, choices.tf32, self._workspace)
        if out is None or target is out:
            return target
        out[...] = target
        return out

    def tap_products(self, pixels: Array, matrices: Array) -> Array:
        """Multiply by all taps at once: here `scatter_windows` reads contiguous taps."""
        groups, taps, d, c = matrices.shape
        beside = matrices.transpose(0, 2, 1, 3).reshape(groups, d, taps * c)
        products = self.product(pixels, beside).reshape(groups, -1, taps, c)
        return products.transpose(0, 2, 1, 3)

    def finish(self, images: Array, bias: Array | None, relu: bool) -> None:
        """Add a bias and apply ReLU in one kernel."""
        pixels = images.transpose(0, 2, 3, 1)
        if not pixels.flags.c_contiguous or (bias is None and not relu):
            super().finish(images, bias, relu)
            return
        added = pixels if bias is None else self.xp.ascontiguousarray(bias)
        flags = (np.int32(bias is not None), np.int32(relu))
        sizes = (np.int64(pixels.size), added, np.int32(pixels.shape[3]))
        self._run("bias_relu", pixels.size, pixels, *sizes, *flags)

    # Windows and poolings ---------------------------------------------------------------------

    def gather_windows(self, images: Array, windows: Windows) -> Array:
        """Copy every window into its own row, in one kernel."""
        n, c = images.shape[:2]
        w, count = windows, n * windows.out_h * windows.out_w * c
        gathered = self.xp.empty((n, w.out_h, w.out_w, w.k_h * w.k_w, c), images.dtype)
        arguments = (gathered, np.int64(count), *_strided(images), np.int32(c))
        self._run("gather_windows", count, *arguments, *_geometry(w))
        return gathered

    def scatter_windows(self, gathered: Array, windows: Windows) -> Array:
        """Add every window's row back; each pixel gathers its own terms."""
        n, c = len(gathered), gathered.shape[4]
        images = self.empty_images((n, c, windows.in_h, windows.in_w), gathered.dtype)
        rows = self.xp.ascontiguousarray(gathered)
        arguments = (images, np.int64(images.size), rows, np.int32(c))
        self._run("scatter_windows", images.size, *arguments, *_geometry(windows))
        return images

    def sum_windows(self, images: Array, windows: Windows) -> Array:
        """Add up each window in one kernel."""
        n, c = images.shape[:2]
        out = self.empty_images((n, c, windows.out_h, windows.out_w), images.dtype, images)
        arguments = (*_written(out), *_strided(images), np.int32(c))
        self._run("sum_windows", out.size, *arguments, *_geometry(windows))
        return out

    def spread_windows(self, values: Array, windows: Windows) -> Array:
        """Add each window's value to its pixels; each pixel gathers from its windows."""
        n, c = values.shape[:2]
        out = self.empty_images((n, c, windows.in_h, windows.in_w), values.dtype, values)
        arguments = (*_written(out), *_strided(values), np.int32(c))
        self._run("spread_windows", out.size, *arguments, *_geometry(windows))
        return out

    def max_windows(self, images: Array, windows: Windows) -> tuple[Array, Array]:
        """Find the winners in one kernel."""
        n, c = images.shape[:2]
        shape = (n, c, windows.out_h, windows.out_w)
        best = self.empty_images(shape, images.dtype, images)
        kind = np.uint8 if windows.k_h * windows.k_w < 255 else np.int32
        winners = self.empty_images(shape, kind, images)
        size, order = np.int64(best.size), _written(best)[2]
        arguments = (best, winners, size, order, *_strided(images), np.int32(c))
        self._run("max_windows", best.size, *arguments, *_geometry(windows), also=winners)
        return best, winners

    def scatter_winners(self, values: Array, winners: Array, windows: Windows) -> Array:
        """Add values to the pixels that won; each pixel gathers from its windows."""
        n, c = values.shape[:2]
        out = self.empty_images((n, c, windows.in_h, windows.in_w), values.dtype, values)
        arguments = (*_written(out), *_strided(values), *_strided(winners), np.int32(c))
        self._run("scatter_winners", out.size, *arguments, *_geometry(windows), also=winners)
        return out

    def gather_winners(self, images: Array, winners: Array, windows: Windows) -> Array:
        """Look up the pixels that won, in one kernel."""
        out = self.empty_images(winners.shape, images.dtype, images)
        channels = np.int32(images.shape[1])
        arguments = (*_written(out), *_strided(images), *_strided(winners), channels)
        self._run("gather_winners", out.size, *arguments, *_geometry(windows), also=winners)
        return out

    # Elements and rows ------------------------------------------------------------------------

    def column_sums(self, a: Array, b: Array | None = None) -> Array:
        """Multiply by ones with cuBLAS."""
        return self.product(self.xp.ones((1, len(a)), a.dtype), a if b is None else a * b)[0]

    def gated(self, values: Array, x: Array, out: Array | None = None) -> Array:
        """Compare and select in one kernel if the arrays have the same order and no gaps."""
        kept = self.xp.empty_like(values) if out is None else out
        alike = values.dtype == x.dtype and _steps(values) == _steps(x) == _steps(kept)
        if not alike or not _is_dense(x):
            return super().gated(values, x, out)
        self._run("gated", kept.size, kept, np.int64(kept.size), values, x)
        return kept

    def index_add(self, target: Array, index: Any, values: Array) -> None:
        """Do `target[index] += values`, in any order or a fixed one: see `set_deterministic`."""
        xp, parts = self.xp, index if isinstance(index, tuple) else (index,)
        plain = target.flags.c_contiguous and target.dtype.name in ("float32", "float64")
        kinds = {getattr(getattr(part, "dtype", None), "kind", None) for part in parts}
        if not plain or not kinds <= {"i", "u"} or values.dtype != target.dtype:
            xp.add.at(target, index, values)
            return
        rows: Any = 0  # all leading indices as one flat row number
        for part, length in zip(parts, target.shape, strict=False):
            rows = rows * length + part.astype(np.int64) % length
        rows = rows.reshape(-1)
        width, length = math.prod(target.shape[len(parts) :]), math.prod(target.shape[: len(parts)])
        values, size = xp.ascontiguousarray(values), rows.size * width
        if not choices.deterministic:
            sizes = (np.int64(length), np.int64(width))
            self._run("index_add", size, target, *sizes, rows, values, np.int64(size))
            return
        order = xp.argsort(rows * rows.size + xp.arange(rows.size))  # all keys differ: no ties
        sizes = (np.int64(rows.size), np.int64(size))
        arguments = (target, np.int64(width), rows[order], order, values, *sizes)
        self._run("index_add_in_order", size, *arguments)

    def update_all(self, rule: str | None, updates: Sequence[Update]) -> None:
        """Do one optimiser step in one kernel, over all parameters that the kernel supports."""
        fused = [u for u in updates if rule is not None and u.p.flags.c_contiguous and u.p.size]
        super().update_all(rule, [u for u in updates if not any(u is other for other in fused)])
        if not fused:
            return
        gradients = [self.xp.ascontiguousarray(u.g) for u in fused]
        prepared = [u.for_kernel() for u in fused]
        table = np.zeros((len(fused), ROW), np.uint64)
        for row, u, g, (kept, _) in zip(table, fused, gradients, prepared, strict=True):
            row[: 2 + len(kept)] = [self._address(array) for array in (u.p, g, *kept)]
            row[NUMBERS - 1] = u.p.size

        def count(steps: int) -> None:
            for u in fused:
                u.count(steps)

        def advanced() -> np.ndarray[Any, Any]:
            count(1)
            for row, (_, numbers) in zip(table, prepared, strict=True):
                found = np.array(numbers(), np.float64)
                row[NUMBERS : NUMBERS + len(found)] = found.view(np.uint64)
            return table.copy()

        where = self.fresh(advanced, undo=lambda: count(-1))
        blocks = min(-(-max(u.p.size for u in fused) // THREADS), MOST_BLOCKS)
        name = f"{rule}<{C_NAMES[fused[0].p.dtype.name]}>"
        assert self._launch is not None
        self._launch(name, (blocks, len(fused)), (where,))

    def _address(self, array: Array) -> int:
        return int(array.data.ptr)

    # Recording --------------------------------------------------------------------------------

    def _renewable(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return memory from outside the recording's pool.

        Memory from the pool may have been freed earlier by the recorded work, which then overwrites
        it in every repetition.
        """
        stream, allocate = self._outside
        with stream, self.xp.cuda.using_allocator(allocate):
            return self.xp.empty(shape, dtype)

    def _captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture what `work` puts into a separate stream as a CUDA graph.

        Its memory comes from a separate pool that lives as long as the graph: memory that `work`
        frees must not be reused elsewhere, because the graph will write to it again.
        """
        cuda = self.xp.cuda
        stream, pool = cuda.Stream(non_blocking=True), cuda.MemoryPool()
        self._outside = cuda.get_current_stream(), cuda.get_allocator()
        self._workspace = self.xp.empty(cublas.WORKSPACE, np.uint8)
        kept = (pool, self._workspace)
        stream.wait_event(cuda.get_current_stream().record())
        try:
            with cuda.using_allocator(pool.malloc), stream:
                stream.begin_capture()
                try:
                    work()
                except BaseException:
                    with contextlib.suppress(Exception):  # the first error is more informative
                        stream.end_capture()
                    raise
                graph = stream.end_capture()
        finally:
            self._workspace = self._outside = None

        def repeat(_: Any = kept) -> None:
            graph.launch()  # into the current stream

        return repeat


def _steps(x: Array) -> tuple[int, ...]:
    """Return the strides of the axes that have more than one element."""
    return tuple(step for step, size in zip(x.strides, x.shape, strict=True) if size > 1)


def _is_dense(x: Array) -> bool:
    """Tell whether an array's elements fill its memory without gaps."""
    span = sum((size - 1) * step for step, size in zip(x.strides, x.shape, strict=True))
    return all(step > 0 for step in _steps(x)) and bool(span + x.itemsize == x.nbytes)
