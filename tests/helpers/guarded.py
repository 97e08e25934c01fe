"""A backend for tests that refuses on the CPU what CuPy refuses on a GPU.

Most machines that run the tests have no GPU, and code that works on NumPy arrays can fail on CuPy's
in ways that NumPy never shows. `GuardedArray` holds a NumPy array and lets through only what CuPy
would: no silent conversion to NumPy, no NumPy array beside one of these in an operation, no
function that CuPy lacks, and arrays where NumPy gives numbers. Importing this module registers it
as the device `"guarded"`. The kernels are `Backend`'s generic ones, so every operation's test runs
them too.

What CuPy does was read from its source (cupy/_core/core.pyx, _kernel.pyx, _routines_indexing.pyx):

- Python and NumPy numbers are accepted as operands; NumPy arrays are an unsupported type.
- An index may be a NumPy array or a list, which CuPy copies to the GPU ("Convert list/NumPy/
  CUDA-Array-Interface arrays to cupy.ndarray"). It is therefore accepted here.
- A value assigned to a slice must be an array of CuPy's or a number.
- Where NumPy would turn a result without axes into a number, CuPy keeps an array, and indexing
  with numbers alone gives a view.
- Numbers out of range in an index array wrap around, silently.
- There is no write flag.
- The host goes ahead of the device. Whatever turns an array into a Python number, or needs to know
  how many elements hold, waits for it; such waits are counted in `hidden`, unless the backend was
  asked for them. Errors that it did not wait for come later, as on a GPU.
- What the device is asked to do can be recorded and repeated: same memory, same numbers, no Python.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import backends
from minidl.backends.cuda.deferred import DeferringBackend

hidden: list[str] = []
"""What made the host wait without asking the backend for it."""

_tape: list[Callable[[], None]] | None = None
"""What a recording has the device do."""


def _waits(what: str) -> None:
    if _tape is not None:
        raise RuntimeError(f"guarded: {what} waits for the device, which is recording")
    hidden.append(what)


def _do(work: Callable[[], Any], sources: list[Any]) -> Any:
    """Do what the device was asked for; let a recording do it again into the same memory."""
    made = _wrap(work(), sources)
    if _tape is not None:
        _tape.append(lambda: _put_again(made, work()))
    return made


def _put_again(made: Any, again: Any) -> None:
    if isinstance(made, (list, tuple)):
        for one, other in zip(made, again, strict=True):
            _put_again(one, other)
    elif isinstance(made, GuardedArray) and not np.may_share_memory(made._array, again):
        made._array[...] = again


class GuardedArray:
    """A NumPy array that behaves as one of CuPy's."""

    __slots__ = ("__weakref__", "_array", "base")
    __array_ufunc__ = None  # NumPy's functions refuse it; its operators leave it to ours
    __hash__ = None

    def __init__(self, array: np.ndarray, base: GuardedArray | None = None) -> None:
        self._array = array
        self.base = base

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError(
            "guarded: implicit conversion to a NumPy array is not allowed; "
            "use the backend's to_numpy to copy one explicitly"
        )

    def __array_function__(self, function: Callable[..., Any], *_: Any) -> Any:
        raise TypeError(
            f"guarded: numpy.{function.__name__} got an array of another library; use backend.xp"
        )

    def get(self) -> np.ndarray:
        """Copy to NumPy, explicitly."""
        _waits("get")
        return self._array.copy()

    def __getattr__(self, name: str) -> Any:
        if name in _VALUES:
            return getattr(self._array, name)
        if name in _METHODS:
            return _guarded_call(f"ndarray.{name}", getattr(self._array, name), self)
        raise AttributeError(f"guarded: arrays of CuPy have no attribute {name!r}")

    @property
    def T(self) -> GuardedArray:  # noqa: N802 - NumPy's name
        return _wrap(self._array.T, [self])

    def item(self, *index: int) -> Any:
        _waits("item")
        return self._array.item(*index)

    def tolist(self) -> Any:
        _waits("tolist")
        return self._array.tolist()

    def __repr__(self) -> str:
        return f"guarded({self._array!r})"

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        _waits("bool")
        return bool(self._array)

    def __int__(self) -> int:
        _waits("int")
        return int(self._array)

    def __float__(self) -> float:
        _waits("float")
        return float(self._array)

    def __index__(self) -> int:
        _waits("index")
        return operator.index(self._array)

    def __getitem__(self, index: Any) -> GuardedArray:
        def select() -> np.ndarray:
            plain = _index(index, self.shape)
            result = self._array[plain]
            if isinstance(result, np.generic) and Ellipsis not in plain:
                result = self._array[(*plain, ...)]  # a view of one element, as in CuPy
            return result

        return _do(select, [self])

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, (list, tuple)):
            raise TypeError(f"guarded: got a {type(value).__name__} to assign, expected an array")
        new = _unwrap("assignment", value)
        _do(lambda: self._array.__setitem__(_index(index, self.shape), new), [])


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VALUES = _names(
    """
    shape ndim size dtype itemsize nbytes strides flags
    """
)

_METHODS = _names(
    """
    all any argmax argmin argsort astype clip copy cumprod cumsum diagonal dot fill flatten max
    mean min nonzero prod ravel repeat reshape round sort squeeze std sum swapaxes take trace
    transpose var view
    """
)

# The functions of CuPy that array code might want: every one is exported by cupy/__init__.py.
_FUNCTIONS = _names(
    """
    abs absolute add all allclose amax amin any arange arccos arccosh arcsin arcsinh arctan arctan2
    arctanh argmax argmin argpartition argsort argwhere around array array_equal array_split
    asarray ascontiguousarray atleast_1d atleast_2d atleast_3d bincount bitwise_and bitwise_or
    bitwise_xor broadcast_arrays broadcast_to cbrt ceil choose clip column_stack compress
    concatenate convolve copy copysign copyto cos cosh count_nonzero cumprod cumsum deg2rad diag
    diagflat diagonal diff digitize divide dot einsum empty empty_like equal exp exp2 expand_dims
    expm1 eye fabs flatnonzero flip fliplr flipud floor floor_divide fmax fmin fmod full full_like
    greater greater_equal histogram hstack hypot identity indices inner interp invert isclose
    isfinite isinf isnan ix_ kron less less_equal linspace log log10 log1p log2 logaddexp
    logical_and logical_not logical_or logical_xor logspace matmul max maximum mean median meshgrid
    min minimum mod moveaxis multiply nan_to_num nanmax nanmean nanmin nansum negative nonzero norm
    not_equal ones ones_like outer pad partition percentile positive power prod quantile ravel
    reciprocal remainder repeat reshape rint roll rollaxis rot90 round searchsorted select sign
    signbit sin sinh sort split sqrt square squeeze stack std subtract sum swapaxes take
    take_along_axis tan tanh tensordot tile trace transpose tri tril triu true_divide trunc unique
    var vdot vstack where zeros zeros_like
    """
)

_CONSTANTS = _names(
    """
    bool_ dtype e finfo float16 float32 float64 iinfo inf int8 int16 int32 int64 integer issubdtype
    nan ndim newaxis pi promote_types result_type uint8 uint16 uint32 uint64
    """
)

_TAKE_NUMPY_ARRAYS = frozenset(("array", "asarray"))  # transfers that CuPy makes when asked to

_ALLOCATE = frozenset(("empty", "empty_like"))

_WAIT = _names("argwhere flatnonzero nonzero unique array_equal allclose ndarray.nonzero")

_NOT_IN_CUPY = frozenset(("initial", "like", "subok", "where"))


class _Namespace:
    """The array module: NumPy's functions of the names that CuPy has, on guarded arrays."""

    ndarray = GuardedArray

    @staticmethod
    def einsum(formula: str, *operands: GuardedArray, **options: Any) -> Any:
        if formula == "->":  # of one number, which CuPy returns as a view and NumPy as a copy
            return operands[0][...]
        return _guarded_call("einsum", np.einsum)(formula, *operands, **options)

    def __getattr__(self, name: str) -> Any:
        if name in _CONSTANTS:
            return getattr(np, name)
        if name in _FUNCTIONS:
            return _guarded_call(name, getattr(np, name))
        raise AttributeError(f"guarded: CuPy has no function {name!r}")


def _guarded_call(
    name: str, function: Callable[..., Any], *owners: GuardedArray
) -> Callable[..., Any]:
    """Return `function` of NumPy arrays as a function of guarded ones, with CuPy's refusals."""

    def call(*args: Any, **options: Any) -> Any:
        refused = _NOT_IN_CUPY.intersection(options)
        if refused:
            raise TypeError(f"guarded: CuPy's {name} has no argument {min(refused)!r}")
        if name in _WAIT:
            _waits(name)
        takes_numpy = name in _TAKE_NUMPY_ARRAYS
        plain = [_unwrap(name, arg, takes_numpy) for arg in args]
        plain_options = {key: _unwrap(name, arg, takes_numpy) for key, arg in options.items()}
        sources = [*owners, *_guarded_among(args), *_guarded_among(tuple(options.values()))]
        if name in _ALLOCATE:  # a matter of the host, not to be repeated
            return _wrap(function(*plain, **plain_options), sources)
        return _do(lambda: function(*plain, **plain_options), sources)

    return call


def _guarded_among(values: Any) -> list[GuardedArray]:
    found = []
    for value in values:
        if isinstance(value, GuardedArray):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _guarded_among(value)
    return found


def _unwrap(where: str, value: Any, numpy_too: bool = False) -> Any:
    """Return the NumPy array inside a guarded one, and anything that is no array as it is."""
    if isinstance(value, GuardedArray):
        return value._array
    if isinstance(value, np.ndarray) and not numpy_too:
        raise TypeError(f"guarded: {where}: unsupported type {type(value)} beside a guarded array")
    if isinstance(value, (list, tuple)):
        return type(value)(_unwrap(where, part, numpy_too) for part in value)
    return value


def _wrap(result: Any, sources: list[GuardedArray]) -> Any:
    """Guard what NumPy returned, and say whose memory it looks into."""
    if isinstance(result, (list, tuple)):
        return type(result)(_wrap(part, sources) for part in result)
    if isinstance(result, np.generic):
        return GuardedArray(np.asarray(result))
    if not isinstance(result, np.ndarray):
        return result
    for source in sources:
        if result is source._array:
            return source
        if result.base is not None and np.may_share_memory(result, source._array):
            return GuardedArray(result, source if source.base is None else source.base)
    return GuardedArray(result)


def _index(index: Any, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Return an index for NumPy, with numbers in arrays taken modulo the length of their axis."""
    parts = index if isinstance(index, tuple) else (index,)
    plain = [part._array if isinstance(part, GuardedArray) else part for part in parts]
    axes = [_axes_used(part) for part in plain]
    axis, wrapped = 0, []
    for part, used in zip(plain, axes, strict=True):
        if getattr(part, "dtype", None) == np.bool_ and part.ndim:
            _waits("an index of bools")  # how many hold?
        whole = isinstance(part, np.ndarray) and part.dtype.kind in "iu"
        if whole and axis < len(shape) and shape[axis]:
            part = np.asarray(part % shape[axis])
        wrapped.append(part)
        axis += len(shape) - sum(axes) if part is Ellipsis else used
    return tuple(wrapped)


def _axes_used(part: Any) -> int:
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if getattr(part, "dtype", None) == np.bool_ else 1


def _decides(other: Any) -> bool:
    """Whether an operator is left to `other`, such as a Tensor, as CuPy leaves it too."""
    undecided = getattr(other, "__array_ufunc__", other) is None
    return undecided and not isinstance(other, GuardedArray)


def _install_operators() -> None:
    """Give the class Python's operators, each refusing what `_unwrap` refuses."""

    def two_sided(name: str, apply: Callable[[Any, Any], Any]) -> None:
        def forward(self: GuardedArray, other: Any) -> Any:
            if _decides(other):
                return NotImplemented
            plain = _unwrap(name, other)
            return _do(lambda: apply(self._array, plain), [])

        def reflected(self: GuardedArray, other: Any) -> Any:
            plain = _unwrap(name, other)
            return _do(lambda: apply(plain, self._array), [])

        setattr(GuardedArray, f"__{name}__", forward)
        setattr(GuardedArray, f"__r{name}__", reflected)

    def one_sided(name: str, apply: Callable[..., Any]) -> None:
        def forward(self: GuardedArray, *other: Any) -> Any:
            if any(_decides(o) for o in other):
                return NotImplemented
            plain = [_unwrap(name, o) for o in other]
            return _do(lambda: apply(self._array, *plain), [self])

        setattr(GuardedArray, f"__{name}__", forward)

    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
        two_sided(name, getattr(operator, name))
        one_sided(f"i{name}", getattr(operator, f"i{name}"))
    for name in ("and", "or", "xor", "lshift", "rshift"):
        two_sided(name, getattr(operator, f"__{name}__"))
        one_sided(f"i{name}", getattr(operator, f"__i{name}__"))
    for name in ("eq", "ne", "lt", "le", "gt", "ge", "neg", "pos", "abs", "invert"):
        one_sided(name, getattr(operator, name))


_install_operators()


class GuardedBackend(DeferringBackend):
    """The generic kernels on guarded arrays."""

    device = "guarded"
    xp = _Namespace()

    def _moved_here(self, array: np.ndarray) -> GuardedArray:
        return GuardedArray(np.array(array))

    def _moved_to_host(self, array: GuardedArray) -> np.ndarray:
        return array._array.copy()

    def fresh(self, make: Any, undo: Any = None) -> GuardedArray:
        memory = super().fresh(make, undo)
        if self._recording is not None:  # the work is done while it is recorded, see below
            memory._array[...] = self._recording.values[-1]
        return memory

    def _captured(self, work: Callable[[], None]) -> Callable[[], None]:
        global _tape
        _tape = tape = []
        try:
            work()
        finally:
            _tape = None
        done = [True]  # a GPU only notes it, and is then asked to do it for the first time

        def repeat() -> None:
            if done:
                done.clear()
                return
            for step in tape:
                step()

        return repeat

    def index_add(self, target: GuardedArray, index: Any, values: GuardedArray) -> None:
        new, add = _unwrap("index_add", values), super().index_add
        _do(lambda: add(target._array, _index(index, target.shape), new), [])


backends.register(GuardedArray, GuardedBackend())
