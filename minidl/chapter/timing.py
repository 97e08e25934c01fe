"""How long a call takes."""

import time
from collections.abc import Callable
from typing import TypeVar

from minidl.checks import check_whole

Result = TypeVar("Result")


def shortest(function: Callable[[], Result], repeats: int = 5) -> tuple[Result, float]:
    """Call a function several times; return its last result and the shortest time in seconds.

    Other programs only ever add to a time, so the shortest is the best estimate. The function has
    to wait for a GPU that it uses, for example by `Tensor.numpy`.

    Args:
        function: without arguments.
        repeats: how many calls, >= 1.

    Raises:
        ValueError: `repeats` is not an integer >= 1.

    Example:
        >>> result, seconds = shortest(lambda: 2 + 3)
        >>> result, 0 <= seconds < 1
        (5, True)
    """
    check_whole("shortest", 1, repeats=repeats)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - began)
    return result, min(times)
