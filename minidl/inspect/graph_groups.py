"""Groups of a graph's nodes, which a page can show as one box each."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, takewhile
from typing import NamedTuple, TypeAlias, TypeVar

from minidl.inspect.graph_node import GraphNode

MOST_MEMBERS = 60  # of a group: a larger one gets groups inside


class Line(NamedTuple):
    """A line of code: its file in short, its number, the function around it, and its text."""

    file: str
    number: int
    function: str
    text: str


@dataclass(eq=False)
class Group:
    """A range of operations, with the leaves that only they use.

    Attributes:
        name: a layer, a line of code, or a range of numbers.
        members: operations by their number, and groups; in order.
    """

    name: str
    members: list[Member] = field(default_factory=list)


Member: TypeAlias = "int | Group"
Item = TypeVar("Item")


def grouped(nodes: Sequence[GraphNode]) -> tuple[list[str], list[int], list[int]]:
    """Group a graph's nodes by layer, or by line of code if there are no layers, and by number.

    A parameter's name says the layer: `features.0.weight` belongs to `features.0`. An operation
    without a parameter belongs to what the layers before and after it share. A group is a range of
    the operations in their order, so the graph of groups has no circle.

    Returns:
        The groups' names, outer groups first; the group around each group, and around each node,
        or -1.
    """
    ops = [node.number for node in nodes if node.op]
    members = _split(list(zip(ops, _paths(nodes), strict=True)), 0)
    around: list[list[Group]] = [[] for _ in nodes]
    for number, chain in _chains(_divided(members), []):
        around[number] = chain
    _adopt_leaves(nodes, around)
    return _flat(around)


def short_line(line: str) -> Line | None:
    """Return the parts of a line as in a traceback; None if it was not recorded.

    The file is shown relative to the current folder, or else by its last two parts.
    """
    found = re.fullmatch(r'\s*File "(.*)", line (\d+), in (.*)\n\s*(.*)', line)
    if found is None:
        return None
    path, number, function, text = found.groups()
    if "ipykernel_" in path:  # a temporary name
        path = "cell"
    elif os.path.isabs(path):
        inside = path.startswith(os.getcwd() + os.sep)
        path = os.path.relpath(path) if inside else os.sep.join(path.split(os.sep)[-2:])
    return Line(path.replace(os.sep, "/"), int(number), function, text)


def _paths(nodes: Sequence[GraphNode]) -> list[tuple[str, ...]]:
    """Return, for each operation, the names of the groups that it belongs to, outermost first."""
    ops = [node for node in nodes if node.op]
    own = [_layer(node, nodes) for node in ops]
    after: list[tuple[str, ...]] = []
    last: tuple[str, ...] = ()
    for layer in reversed(own):
        last = last if layer is None else layer
        after.append(last)
    paths, last = [], ()
    for layer, following in zip(own, reversed(after), strict=True):
        last = last if layer is None else layer
        parts = tuple(_shared([last, following])) if layer is None else layer
        names = tuple(".".join(parts[: i + 1]) for i in range(len(parts)))
        paths.append(names)
    return paths if any(paths) else [_line_path(node) for node in ops]


def _line_path(node: GraphNode) -> tuple[str, ...]:
    line = short_line(node.line)
    return () if line is None else (f"{line.file}:{line.number}",)


def _layer(node: GraphNode, nodes: Sequence[GraphNode]) -> tuple[str, ...] | None:
    """Return the layer whose parameter an operation uses, as the parts of its name."""
    names = (nodes[i].name for i in node.inputs if not nodes[i].op)
    return next((tuple(name.split(".")[:-1]) for name in names if "." in name), None)


def _split(ops: Iterable[tuple[int, tuple[str, ...]]], depth: int) -> list[Member]:
    """Return operations as members of one group: those that share a name in groups of their own."""
    members: list[Member] = []
    for name, run in groupby(ops, lambda pair: pair[1][depth] if depth < len(pair[1]) else None):
        inner = list(run)
        if name is None:
            members += [number for number, _ in inner]
        else:
            members.append(Group(name, _split(inner, depth + 1)))
    return members


def _divided(members: list[Member]) -> list[Member]:
    """Put too many members into groups of equal length; do so inside groups as well."""
    if len(members) > MOST_MEMBERS:
        step = math.ceil(len(members) / MOST_MEMBERS)
        parts = [members[i : i + step] for i in range(0, len(members), step)]
        members = [Group(f"#{_first(p[0])} to #{_last(p[-1])}", p) for p in parts]
    for member in members:
        if isinstance(member, Group):
            member.members = _divided(member.members)
    return members


def _first(member: Member) -> int:
    while isinstance(member, Group):
        member = member.members[0]
    return member


def _last(member: Member) -> int:
    while isinstance(member, Group):
        member = member.members[-1]
    return member


def _chains(members: list[Member], outer: list[Group]) -> Iterator[tuple[int, list[Group]]]:
    """Yield each operation with the groups around it, the outermost first."""
    for member in members:
        if isinstance(member, Group):
            yield from _chains(member.members, [*outer, member])
        else:
            yield member, outer


def _adopt_leaves(nodes: Sequence[GraphNode], around: list[list[Group]]) -> None:
    """Put each leaf into the innermost group that has all operations that use it."""
    users: dict[int, list[list[Group]]] = {}
    for node in nodes:
        for i in node.inputs:
            if not nodes[i].op:
                users.setdefault(i, []).append(around[node.number])
    for i, chains in users.items():
        around[i] = _shared(chains)


def _shared(chains: Sequence[Sequence[Item]]) -> list[Item]:
    """Return the items that all begin with."""
    same = takewhile(lambda items: len(set(items)) == 1, zip(*chains, strict=False))
    return [items[0] for items in same]


def _flat(around: list[list[Group]]) -> tuple[list[str], list[int], list[int]]:
    """Number the groups; leave out those with a single member."""
    inside: dict[Group, set[object]] = {}
    for number, chain in enumerate(around):
        for group, member in zip(chain, [*chain[1:], number], strict=False):
            inside.setdefault(group, set()).add(member)
    kept = {group: i for i, group in enumerate(g for g, m in inside.items() if len(m) > 1)}
    outer_of: dict[Group, int] = {}
    parents = []
    for chain in around:
        outer = -1
        for group in chain:
            if group in kept:
                outer_of.setdefault(group, outer)
                outer = kept[group]
        parents.append(outer)
    return [group.name for group in kept], [outer_of[group] for group in kept], parents
