"""Recording of which line of code ran each operation."""

from __future__ import annotations

from collections.abc import Sequence

from minidl.anomaly import line_of_user
from minidl.autograd import Found, Node, Watcher, set_watcher
from minidl.context import Block
from minidl.tensor import Tensor


def record_lines() -> Block[Watcher | None]:
    """Note the line of your code that runs each operation, for `inspect.graph`.

    Run the forward pass inside the `with` block; the graph may be inspected after it. The line is
    the innermost one outside minidl. Noting it takes some microseconds for each operation, so use
    this to look at a step, not to train. Inside the block, layers and activations run one by one:
    the graph shows each of them, even where training fuses several into one operation.

    The block stands in for an outer `detect_anomaly`, which notes the lines by itself. Other
    threads and asyncio tasks are not affected.

    Example:
        >>> from minidl.inspect import graph
        >>> x = Tensor(3.0, requires_grad=True)
        >>> with record_lines():
        ...     y = x * x
        >>> print(graph(y).nodes[-1].line.split(", ")[1])
        line 2
    """
    return set_watcher(_Lines())


class _Lines:
    """The `Watcher` that notes lines and nothing else."""

    def made(self, op: str, result: Tensor, inputs: Sequence[Tensor | None]) -> None:
        """Note on the node which line of the user's code ran it."""
        if result.node is not None:
            result.node.line = line_of_user()

    def arrived(self, tensor: Tensor, gradient: Tensor) -> None:
        """Do nothing: gradients are not of interest."""

    def differentiated(self, node: Node, found: Found) -> None:
        """Do nothing: gradients are not of interest."""
