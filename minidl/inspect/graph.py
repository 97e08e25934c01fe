"""The recorded graph of operations: as a table, a drawing, a page, and text for Graphviz."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minidl import nn
from minidl.autograd import inputs_first, no_grad, set_watcher
from minidl.derivatives import grad
from minidl.files.whole import whole_file
from minidl.inspect.graph_node import Digest, GraphNode
from minidl.inspect.graph_page import framed, render
from minidl.inspect.plots import COLOURS, pyplot
from minidl.inspect.text import aligned
from minidl.tensor import Tensor
from minidl.tensor.functions import ones

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.path import Path as Curve

KINDS = {  # kinds of boxes in a drawing, with their colours
    "parameter": COLOURS[5],
    "constant": "#999999",
    "operation": COLOURS[4],
    "output": COLOURS[1],
}
MOST_BOXES = 300  # a larger drawing would be unreadable
# Elements of a tensor that a page can show as numbers: fewer if there are many tensors.
LEAST_SHOWN, MOST_SHOWN, TOTAL_SHOWN = 16, 400, 100_000
# Inches: height of a rank and of a box, width of a letter (8 points, monospaced) and of a gap.
ROW, HEIGHT, LETTER, GAP = 0.92, 0.54, 0.067, 0.25


@dataclass(frozen=True)
class Graph:
    """The tensors that an output was computed from, each once; print it for a table.

    Attributes:
        nodes: inputs first, the output last.
    """

    nodes: tuple[GraphNode, ...]

    def kind(self, node: GraphNode) -> str:
        """Return what a node is: one of `KINDS`."""
        leaf = "parameter" if node.requires_grad else "constant"
        return "output" if node is self.nodes[-1] else "operation" if node.op else leaf

    def colour(self, node: GraphNode) -> str:
        """Return the colour of a node's box."""
        return KINDS[self.kind(node)]

    def __str__(self) -> str:
        rows = [("#", "name", "made by", "shape", "value", "gradient (larger ones: max |g|)")]
        for node in self.nodes:
            value, gradient = ("" if v is None else f"{v:.4g}" for v in (node.value, node.gradient))
            gradient = f"max {gradient}" if gradient and not value else gradient
            cells = (node.name, node.made_by, str(node.shape), value, gradient)
            rows.append((f"#{node.number}", *cells))
        columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
        head, *lines = aligned(list(zip(*columns, strict=True)))
        return "\n".join([head, "-" * max(map(len, (head, *lines))), *lines])

    def draw(self) -> Figure:
        """Draw the graph from the top down, with arrows from tensors to those computed from them.

        Slopes of single numbers stand at the arrows: multiply them along a path, add up the paths.

        Raises:
            ValueError: there are more than 300 nodes.
        """
        if len(self.nodes) > MOST_BOXES:
            raise ValueError(
                f"Graph.draw: got {len(self.nodes)} nodes, expected at most {MOST_BOXES}; "
                "print str(graph), or give graph.dot() to Graphviz"
            )
        labels = [node.label for node in self.nodes]
        box = LETTER * max(len(line) for label in labels for line in label.split("\n")) + 0.2
        places, ranks, paths = _layout(self.nodes)
        needed = (box + GAP) * (np.ptp(places) + 1)
        width, height = max(needed, 4.2), ROW * (max(ranks) + 1)  # 4.2 for the legend
        xs = (places - places.min() + 0.5) * (box + GAP) + (width - needed) / 2
        ys = ROW * (np.array(ranks) + 0.5)
        figure: Figure = pyplot().figure(figsize=(width, height + 0.3))
        from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

        axes = figure.add_axes((0, 0, 1, height / (height + 0.3)))  # leaves a strip for the legend
        axes.set(xlim=(0, width), ylim=(height, 0))  # in inches; y grows downward, as ranks do
        axes.set_axis_off()
        slopes = [slope for node in self.nodes for slope in node.slopes]
        for (path, share), slope in zip(paths, slopes, strict=True):
            across = xs[path]
            across[-1] += 0.6 * box * (share - 0.5)  # arrowheads side by side
            curve = _curve(across, ys[path])
            axes.add_patch(
                FancyArrowPatch(path=curve, arrowstyle="-|>", mutation_scale=9, color="#555")
            )
            if slope is not None:
                x, y = across[-2:].mean() + (0.17 if share > 0.5 else -0.17), ys[path[-1]] - ROW / 2
                white = {"fc": "white", "ec": "none", "pad": 0.5}
                times = f"\N{MULTIPLICATION SIGN}{slope:.4g}"
                axes.text(x, y, times, ha="center", va="center", size=9, bbox=white)
        for node, label, x, y in zip(self.nodes, labels, xs, ys, strict=False):  # bends follow
            corner, style = (x - box / 2, y - HEIGHT / 2), "round,pad=0,rounding_size=0.06"
            colour = self.colour(node)
            axes.add_patch(FancyBboxPatch(corner, box, HEIGHT, style, fc=colour + "40", ec=colour))
            axes.text(x, y, label, ha="center", va="center", family="monospace", size=8)
        handles = [Patch(fc=c + "40", ec=c, label=kind) for kind, c in KINDS.items()]
        figure.legend(handles=handles, loc="upper center", ncols=4, frameon=False, fontsize=8)
        return figure

    def html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return an interactive page of the graph; write it too, if a path is given.

        The page is one file that needs no network. Point at a box, or move to it by keyboard, to
        see its values, its gradient and the line of code that ran it; click, or press Enter, for
        all values as a table. Graphs of many tensors begin with boxes that stand for a layer, a
        line of code or a range of tensors, and open on a click.

        Values are those that the tensors had when `graph` ran. The lines are known if the
        computation ran inside `inspect.record_lines` or `detect_anomaly`. In a notebook, a graph
        at the end of a cell is shown as this page.

        Args:
            path: of a file to write, usually ending in .html; its folder is created if needed, and
                an older file replaced.

        Raises:
            OSError: the file cannot be written; an older one stays as it was.
            TypeError: the path is neither a string nor a path.

        Example:
            >>> x = Tensor(3.0, requires_grad=True)
            >>> page = graph(x * x, names={"x": x}).html()
            >>> page.startswith("<!doctype html>"), "mul(#0, #0)" in page
            (True, True)
        """
        if not isinstance(path, str | os.PathLike | None):
            raise TypeError(f"Graph.html: got path={path!r}, expected a str or a Path")
        page = render(self.nodes, [self.kind(node) for node in self.nodes], str(self))
        if path is not None:
            with whole_file(Path(path)) as file:
                file.write(page.encode())
        return page

    def _repr_html_(self) -> str:
        """Return the page in a frame, which keeps its styles from a notebook's."""
        return framed(self.html(), len(self.nodes))

    def dot(self) -> str:
        """Return the graph in DOT, Graphviz's language."""
        lines = ["digraph {", '  node [shape=box, style="rounded,filled", fontname=monospace];']
        for node in self.nodes:
            label = node.label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            colour = self.colour(node)
            look = f'label="{label}", color="{colour}", fillcolor="{colour}40"'
            lines.append(f"  n{node.number} [{look}];")
        lines += [f"  n{i} -> n{node.number};" for node in self.nodes for i in node.inputs]
        return "\n".join([*lines, "}"])


def graph(
    output: Tensor, model: nn.Module | None = None, names: Mapping[str, Tensor] | None = None
) -> Graph:
    """Return the graph recorded behind a tensor, with values and gradients.

    If the output is a single number, its gradients are computed here. No `.grad` changes and
    nothing is freed: `backward` can still follow. Hooks on the tensors run, as for any gradient.
    Under `no_grad`, or if everything is frozen, nothing is recorded: the output is then a constant.

    Args:
        output: usually a loss.
        model: names its parameters, as `named_parameters` does.
        names: more tensors to name, such as inputs.

    Returns:
        A `Graph`: print it, or call its `draw()`, `html()` or `dot()`.

    Raises:
        TypeError: the output or a named tensor is not a Tensor, or the model not a Module.
        RuntimeError: `backward` has freed the graph, or an array was changed after use.

    Example:
        >>> w, x = Tensor(3.0, requires_grad=True), Tensor([1.0, 2.0])
        >>> print(graph((w * x).sum(), names={"w": w, "x": x}))
        #   name  made by      shape  value  gradient (larger ones: max |g|)
        --------------------------------------------------------------------
        #0  w     leaf         ()     3      3
        #1  x     constant     (2,)
        #2        mul(#0, #1)  (2,)          max 1
        #3        sum(#2)      ()     9      1
    """
    if not isinstance(output, Tensor):
        raise TypeError(f"graph: got a {type(output).__name__}, expected a Tensor such as a loss")
    name_of = _names(model, names or {})
    tensors = inputs_first([output], lambda x: reversed(_inputs(x)))
    gradients = _gradients(output, tensors)
    numbers = {id(x): number for number, x in enumerate(tensors)}
    most = max(LEAST_SHOWN, min(MOST_SHOWN, TOTAL_SHOWN // len(tensors)))
    nodes = []
    for number, x in enumerate(tensors):
        g = gradients.get(id(x))
        node = GraphNode(
            number=number,
            op="" if x.node is None else x.node.op,
            name=name_of.get(id(x), ""),
            inputs=tuple(numbers[id(i)] for i in _inputs(x)),
            shape=x.shape,
            dtype=x.dtype,
            requires_grad=x.requires_grad,
            value=float(x.item()) if x.size == 1 else None,
            gradient=None if g is None else float((g if g.size == 1 else g.abs().max()).item()),
            slopes=_slopes(x),
            line="" if x.node is None else x.node.line,
            values=Digest.of(x.numpy(), most),
            gradients=None if g is None else Digest.of(g.numpy(), most),
        )
        nodes.append(node)
    return Graph(tuple(nodes))


def _names(model: nn.Module | None, names: Mapping[str, Tensor]) -> dict[int, str]:
    """Return names by the tensors' ids; given names take precedence over the model's."""
    if not isinstance(model, (nn.Module, type(None))):
        hint = "; names go into names=..." if isinstance(model, Mapping) else ""
        raise TypeError(f"graph: got a {type(model).__name__} for model, expected a Module{hint}")
    for name, x in names.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"graph: got a {type(x).__name__} named {name!r}, expected a Tensor")
    own = {} if model is None else {id(x): name for name, x in model.named_parameters()}
    return own | {id(x): name for name, x in names.items()}


def _inputs(x: Tensor) -> list[Tensor]:
    if x.node is not None and x.node.rule is None:
        raise RuntimeError(
            f"graph: got a graph whose {x.node.op!r} was freed by backward; call graph "
            "before backward, or pass retain_graph=True to backward"
        )
    return [] if x.node is None else [i for i in x.node.inputs if i is not None]


def _gradients(output: Tensor, tensors: Sequence[Tensor]) -> dict[int, Tensor]:
    """Return, by id, each gradient that there is."""
    if output.size != 1 or not output.requires_grad:
        return {}
    wanted = [x for x in tensors if x.requires_grad and x.size]
    found = grad(output, wanted, retain_graph=True, materialize_grads=True)
    return {id(x): g for x, g in zip(wanted, found, strict=True)}


def _slopes(x: Tensor) -> tuple[float | None, ...]:
    """Return the derivative with respect to each input; None unless all are single numbers."""
    inputs = _inputs(x)
    if x.node is None or any(each.size != 1 for each in (x, *inputs)):
        return (None,) * len(inputs)
    # The first pair last, to pop it: an input that occurs twice has two slopes, a constant none.
    with no_grad(), set_watcher(None):
        found = x.node.gradients(ones(x.shape, dtype=x.dtype, device=x.device), x)[::-1]
    return tuple(
        float(found.pop()[1].item()) if found and found[-1][0] is i else None for i in inputs
    )


# Drawing ----------------------------------------------------------------------------------------


def _layout(
    nodes: Sequence[GraphNode],
) -> tuple[NDArray[Any], list[int], list[tuple[list[int], float]]]:
    """Find a position for each box: its x, in box widths, and its rank, counted from the top.

    The rank is the longest path to the output. An edge over several ranks gets a bend in each
    rank between, which takes up the space of a box, so that no arrow crosses a box.

    Returns:
        x and ranks of the nodes, then of the bends; for each edge, the indices that it passes
        through, and where on the side of the last box it ends, `0 < share < 1`.
    """
    heights: list[int] = []  # longest path from a leaf
    for node in nodes:
        heights.append(1 + max((heights[i] for i in node.inputs), default=-1))
    ranks = [heights[-1]] * len(nodes)
    for node in reversed(nodes):
        for i in node.inputs:
            ranks[i] = min(ranks[i], ranks[node.number] - 1)
    paths, pulls = [], []
    for node in nodes:
        # The longest chain runs straight down; other inputs go next to it, in order.
        straight = max(node.inputs, key=lambda i: heights[i], default=0)
        for place, i in enumerate(node.inputs):
            between = range(ranks[i] + 1, ranks[node.number])
            path = [i, *range(len(ranks), len(ranks) + len(between)), node.number]
            ranks.extend(between)
            paths.append((path, (place + 0.5) / len(node.inputs)))
            pulls += [(upper, lower, 0) for upper, lower in pairwise(path[:-1])]
            aside = node.inputs.index(i) - node.inputs.index(straight)
            pulls.append((path[-2], node.number, aside))
    return _spread(ranks, pulls), ranks, paths


def _spread(ranks: Sequence[int], pulls: Sequence[tuple[int, int, int]]) -> NDArray[Any]:
    """Return the x of each box and bend, at least 1 apart within a rank.

    Each pull `(upper, lower, aside)` asks for `x[upper] = x[lower] + aside`. Sweeps over the ranks,
    up and down, sort each by the mean x that its pulls ask for (the barycentre) and move it there.
    """
    wishes: list[list[tuple[int, int]]] = [[] for _ in ranks]
    for upper, lower, aside in pulls:
        wishes[upper].append((lower, aside))
        wishes[lower].append((upper, -aside))
    rows = [np.flatnonzero(np.equal(ranks, rank)) for rank in range(max(ranks) + 1)]
    x = np.full(len(ranks), np.nan)  # not placed yet
    for sweep in range(12):
        for row in rows if sweep % 2 else reversed(rows):
            told = [[x[j] + a for j, a in wishes[i] if x[j] == x[j]] or [0.0] for i in row]
            wanted = np.array([np.mean(each) for each in told])
            order = wanted.argsort(kind="stable")
            free = wanted[order] - np.arange(len(row))  # must not decrease in this order
            moved = np.maximum.accumulate(free) + np.minimum.accumulate(free[::-1])[::-1]
            x[row[order]] = moved / 2 + np.arange(len(row))
    return x


def _curve(xs: NDArray[Any], ys: NDArray[Any]) -> Curve:
    """Return the line from box to box: curved between ranks, vertical where it crosses one."""
    from matplotlib.path import Path as Curve

    down = np.add.outer(ys[:-1], (HEIGHT / 2, ROW / 2, ROW / 2, ROW - HEIGHT / 2))
    codes = [Curve.LINETO, *[Curve.CURVE4] * 3] * (len(xs) - 1)
    vertices = np.stack([np.repeat(xs, 4)[2:-2], down.ravel()], 1)
    return Curve(vertices, [Curve.MOVETO, *codes[1:]])
