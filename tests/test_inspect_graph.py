"""Graphs as a table, a drawing and DOT; gradients of all parameters as a picture."""

import itertools
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import minidl
from minidl import Tensor, models, nn
from minidl import functional as F
from minidl.inspect import plots
from minidl.inspect.graph import KINDS, GraphNode, graph
from minidl.tensor import record


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def line(device="cpu"):
    """Return the loss `((w * x + b - y)**2).mean()` and what it was computed from."""
    w = Tensor(np.array(2.0), device=device, requires_grad=True)
    b = Tensor(np.array(1.0), device=device, requires_grad=True)
    x, y = (Tensor(np.array(v), device=device) for v in ([1.0, 2.0, 3.0], [1.0, 2.0, 4.0]))
    return ((w * x + b - y) ** 2).mean(), {"w": w, "b": b, "x": x, "y": y}


def cifar10():
    model, images = models.cifar10_cnn(), minidl.rand(2, 3, 32, 32)
    return F.cross_entropy(model(images), np.array([1, 2])), model, images


# Nodes


def test_nodes_come_after_their_inputs_with_values_and_gradients(device):
    loss, names = line(device)
    nodes = graph(loss, names=names).nodes
    assert [(node.op, node.name, node.inputs) for node in nodes] == [
        ("", "w", ()),
        ("", "x", ()),
        ("mul", "", (0, 1)),
        ("", "b", ()),
        ("add", "", (2, 3)),
        ("", "y", ()),
        ("sub", "", (4, 5)),
        ("mul", "", (6, 6)),
        ("mean", "", (7,)),
    ]
    assert [node.number for node in nodes] == list(range(9))
    assert [node.shape for node in nodes if node.shape] == [(3,)] * 6
    assert {node.dtype for node in nodes} == {np.dtype(np.float64)}
    assert [node.value for node in nodes if not node.shape] == [2, 1, (4 + 9 + 9) / 3]
    assert all(node.value is None for node in nodes if node.shape)
    # residuals 2, 3, 3: d/dw = 2/3 (2*1 + 3*2 + 3*3), d/db = 2/3 (2 + 3 + 3)
    gradients = {node.name or node.number: node.gradient for node in nodes}
    assert gradients == pytest.approx(
        {"w": 34 / 3, "x": None, 2: 2, "b": 16 / 3, 4: 2, "y": None, 6: 2, 7: 1 / 3, 8: 1}
    )


def test_the_gradient_of_a_larger_tensor_is_the_largest_absolute_value():
    x = Tensor([1.0, 2.0], requires_grad=True)
    assert graph((x * Tensor([1.0, -5.0])).sum()).nodes[0].gradient == 5


def test_the_gradient_of_a_single_number_keeps_its_sign():
    x = Tensor([[4.0]], requires_grad=True)
    assert graph((-x).sum()).nodes[0] == GraphNode(
        0, "", "", (), (1, 1), np.dtype(np.float32), True, 4.0, -1.0
    )


def test_gradients_are_what_backward_finds():
    loss, model, _ = cifar10()
    found = {node.name: node.gradient for node in graph(loss, model).nodes if node.name}
    loss.backward()
    assert found == {name: np.abs(p.grad.numpy()).max() for name, p in model.named_parameters()}


def test_slopes_of_single_numbers_multiply_and_add_up_to_the_gradient(device):
    a, b = (Tensor(np.array(v), device=device, requires_grad=True) for v in (3.0, 4.0))
    one, five = (Tensor(np.array(v), device=device) for v in (1.0, 5.0))
    q = a / b
    nodes = graph((q * q - five) * one).nodes
    assert [(node.op, node.slopes) for node in nodes if node.op] == [
        ("div", (1 / 4, -3 / 16)),
        ("mul", (3 / 4, 3 / 4)),
        ("sub", (1, None)),
        ("mul", (1, None)),
    ]
    assert nodes[0].gradient == 1 / 4 * (3 / 4 + 3 / 4)
    loss, names = line(device)
    assert {s for node in graph(loss, names=names).nodes for s in node.slopes} == {None}


def test_slopes_stand_at_their_arrows():
    x = Tensor(3.0, requires_grad=True)
    figure = graph(x * x * Tensor(2.0)).draw()
    beside = [text for text in figure.axes[0].texts if not text.get_text().startswith("#")]
    assert [text.get_text()[1:] for text in beside] == ["3", "3", "2"]
    for text, points in zip(beside, arrows(figure), strict=False):
        middle = (points[0] + points[-1]) / 2
        assert np.abs(np.subtract(text.get_position(), middle)).max() < 0.2


def test_nothing_changes_and_backward_still_works():
    loss, names = line()
    names["b"].grad = Tensor(np.array(7.0))
    graph(loss)
    assert names["w"].grad is None
    assert names["b"].grad.item() == 7
    graph(loss).draw()
    loss.backward()
    assert names["w"].grad.item() == pytest.approx(34 / 3)
    assert names["b"].grad.item() == pytest.approx(7 + 16 / 3)


def test_a_graph_can_be_looked_at_without_recording():
    loss, _ = line()
    with minidl.no_grad():
        assert graph(loss).nodes[0].gradient == pytest.approx(34 / 3)


def test_a_shared_tensor_is_one_node():
    x = Tensor(3.0, requires_grad=True)
    y = x * x
    nodes = graph(y * x + y).nodes
    assert [node.made_by for node in nodes] == [
        "leaf",
        "mul(#0, #0)",
        "mul(#1, #0)",
        "add(#2, #1)",
    ]
    assert nodes[0].gradient == 3 * 9 + 2 * 3


def test_an_output_of_several_numbers_has_no_gradients():
    _, names = line()
    found = graph(names["w"] * names["x"])
    assert [node.gradient for node in found.nodes] == [None] * 3
    assert str(found).splitlines()[0].split() == ["#", "made", "by", "shape", "value"]


def test_frozen_parameters_are_constants():
    model = nn.Conv2d(1, 1, 2)
    model.weight.requires_grad_(False)
    found = graph(model(minidl.ones((1, 1, 3, 3))).sum(), model)
    weight, bias = (node for node in found.nodes if node.name)
    assert (weight.name, weight.made_by, weight.gradient) == ("weight", "constant", None)
    assert (bias.name, bias.made_by, bias.gradient) == ("bias", "leaf", 4)
    assert found.colour(weight) == KINDS["constant"]


def test_absent_inputs_are_left_out():
    weight = minidl.ones((1, 1, 2, 2)).requires_grad_()
    (node,) = [n for n in graph(F.conv2d(minidl.ones((1, 1, 3, 3)), weight)).nodes if n.op]
    assert (node.op, node.inputs) == ("conv2d", (0, 1))


def test_a_tensor_that_no_gradient_reaches_has_gradient_zero():
    x = Tensor(3.0, requires_grad=True)
    y = record("stop", x.data.copy(), (x,), lambda gradient: (None,))
    assert [node.gradient for node in graph(y).nodes] == [0, 1]


def test_tensors_without_elements_have_no_gradient():
    x = minidl.zeros(0).requires_grad_()
    assert [node.gradient for node in graph(x.sum()).nodes] == [None, 1]


def test_names_given_come_before_the_models_own():
    model = nn.Linear(2, 1, bias=False)
    hidden = model(minidl.ones((1, 2)))
    nodes = graph(hidden.sum(), model, {"W": model.weight, "h": hidden}).nodes
    assert [(n.name, n.op) for n in nodes if n.name] == [("W", ""), ("h", "matmul")]


def test_a_leaf_is_a_graph_of_one_line():
    assert str(graph(Tensor([1.0, 2.0]))) == (
        "#   made by   shape\n-------------------\n#0  constant  (2,)"
    )
    (node,) = graph(Tensor(2.0, requires_grad=True), names={}).nodes
    assert (node.made_by, node.gradient) == ("leaf", 1)


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_thousand_operations_need_no_recursion(count):
    y = x = Tensor(1.0, requires_grad=True)
    for _ in range(count):
        y = y + x
    found = graph(y)
    assert len(found.nodes) == count + 1
    assert found.nodes[0].gradient == count + 1
    assert str(found).count("\n") == found.dot().count("\n") // 3 + 1 == count + 2
    refusal = rf"Graph.draw: got {count + 1} nodes, expected at most 300.*dot"
    with pytest.raises(ValueError, match=refusal):
        found.draw()


# Errors


def test_a_freed_graph_is_refused():
    loss, _ = line()
    loss.backward()
    with pytest.raises(RuntimeError, match=r"'mean' was freed by backward.*retain_graph=True"):
        graph(loss)


def test_a_graph_freed_further_down_is_refused():
    x = Tensor(2.0, requires_grad=True)
    y = x.exp()
    loss = y * y
    y.backward()
    with pytest.raises(RuntimeError, match="graph: got a graph whose 'exp' was freed"):
        graph(loss)


def test_an_array_changed_after_its_use_is_refused():
    loss, names = line()
    names["x"].data = np.zeros(3)
    with pytest.raises(RuntimeError, match="changed in place"):
        graph(loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3.0,), "graph: got a float, expected a Tensor such as a loss"),
        ((Tensor(1.0), "w"), "graph: got a str for model, expected a Module$"),
        (
            (Tensor(1.0), {}),
            r"graph: got a dict for model, expected a Module; names go into names=",
        ),
        ((Tensor(1.0), None, {"w": 3}), "graph: got a int named 'w', expected a Tensor"),
    ],
)
def test_what_is_no_tensor_or_module_is_refused(arguments, message):
    with pytest.raises(TypeError, match=message):
        graph(*arguments)


# Table


def test_the_table_is_read_from_top_to_bottom():
    loss, names = line()
    assert str(graph(loss, names=names)).splitlines() == [
        "#   name  made by      shape  value  gradient (larger ones: max |g|)",
        "--------------------------------------------------------------------",
        "#0  w     leaf         ()     2      11.33",
        "#1  x     constant     (3,)",
        "#2        mul(#0, #1)  (3,)          max 2",
        "#3  b     leaf         ()     1      5.333",
        "#4        add(#2, #3)  (3,)          max 2",
        "#5  y     constant     (3,)",
        "#6        sub(#4, #5)  (3,)          max 2",
        "#7        mul(#6, #6)  (3,)          max 0.3333",
        "#8        mean(#7)     ()     7.333  1",
    ]


# Drawing


def boxes(figure):
    """Return each box as `(left, top, right, bottom)`, with its text."""
    (axes,) = figure.axes
    patches = [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    corners = [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in patches]
    named = [text for text in axes.texts if text.get_text().startswith("#")]
    return [
        ((x, y, x + width, y + height), text)
        for (x, y, width, height), text in zip(corners, named, strict=True)
    ]


def arrows(figure):
    """Return the points of each arrow's path, the first where it leaves a box."""
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]
    return [patch._path_original.vertices for patch in patches]


def shortcuts():
    x = h = minidl.ones(2).requires_grad_()
    for _ in range(3):
        h = (h + (h * x).tanh() * 2) * x
    return h.sum()


def recurrent():
    w, h = minidl.ones((2, 2)).requires_grad_(), minidl.ones((2, 1))
    for _ in range(8):
        h = (w @ h).tanh()
    return h.sum()


GRAPHS = {
    "line": lambda: graph(*line()[:1], names=line()[1]),
    "cifar10": lambda: graph(*cifar10()[:2]),
    "shortcuts": lambda: graph(shortcuts()),
    "recurrent": lambda: graph(recurrent()),
    "wide": lambda: graph(minidl.stack([Tensor(1.0, requires_grad=True) for _ in range(40)]).sum()),
    "leaf": lambda: graph(Tensor(1.0)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_boxes_lie_apart_inside_the_drawing_and_hold_their_text(name):
    figure = GRAPHS[name]().draw()
    figure.canvas.draw()
    (axes,), drawn = figure.axes, boxes(figure)
    for (left, top, right, bottom), text in drawn:
        assert 0 <= left < right <= axes.get_xlim()[1]
        assert 0 <= top < bottom <= axes.get_ylim()[0]
        extent = text.get_window_extent().transformed(axes.transData.inverted())
        assert left < extent.x0 < extent.x1 < right
        assert top < min(extent.y0, extent.y1) < max(extent.y0, extent.y1) < bottom
    for place, ((left, top, right, bottom), _) in enumerate(drawn):
        for (left2, top2, right2, bottom2), _ in drawn[:place]:
            assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
    legend = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= legend.x0 < legend.x1 <= figure.bbox.x1
    assert legend.y0 >= axes.get_window_extent().y1 - 0.2 * figure.dpi  # no box lies so high


@pytest.mark.parametrize("name", GRAPHS)
def test_arrows_run_down_from_each_input_and_through_no_box(name):
    found = GRAPHS[name]()
    figure = found.draw()
    drawn = [corners for corners, _ in boxes(figure)]
    edges = [(i, node.number) for node in found.nodes for i in node.inputs]
    paths = arrows(figure)
    assert len(paths) == len(edges)
    for (start, end), points in zip(edges, paths, strict=True):
        left, _, right, bottom = drawn[start]
        assert points[0] == pytest.approx([(left + right) / 2, bottom])
        left, top, right, _ = drawn[end]
        assert left < points[-1][0] < right
        assert points[-1][1] == pytest.approx(top)
        assert (np.diff(points[:, 1]) >= -1e-9).all()
        for left, top, right, bottom in drawn:
            inside = (top + 1e-6 < points[:, 1]) & (points[:, 1] < bottom - 1e-6)
            beside = (points[:, 0] <= left) | (right <= points[:, 0])
            assert (beside | ~inside).all()
            # Straight pieces pass a whole rank: both ends are on one line, beside every box.
            for a, b in itertools.pairwise(points):
                if a[0] == b[0] and a[1] <= top + 1e-6 and bottom - 1e-6 <= b[1]:
                    assert not left < a[0] < right


def test_a_chain_runs_straight_down_with_parameters_beside_it():
    found = graph(*cifar10()[:2])
    drawn = [corners for corners, _ in boxes(found.draw())]
    ops = [n for n in found.nodes if n.op and n.op != "transpose"]
    assert np.ptp([drawn[node.number][0] for node in ops]) < 1e-9
    for node in found.nodes:
        if node.name.endswith("weight") and node.name[0] in "036":
            (conv,) = [n for n in found.nodes if node.number in n.inputs]
            assert drawn[node.number][0] > drawn[conv.number][2]
            assert drawn[node.number][3] < drawn[conv.number][1]


def test_both_arrows_of_a_square_are_seen():
    x = Tensor(3.0, requires_grad=True)
    one, other = arrows(graph(x * x).draw())
    assert abs(one[-1][0] - other[-1][0]) > 0.1


def test_boxes_say_what_they_are():
    loss, names = line()
    found = graph(loss, names=names)
    texts = [text.get_text() for _, text in boxes(found.draw())]
    assert texts[0] == "#0 w\nvalue 2\ngradient 11.33"
    assert texts[1] == "#1 x\nshape (3,)"
    assert texts[2] == "#2 mul\nshape (3,)\nmax |g| 2"
    colours = {found.colour(node) for node in found.nodes}
    assert [found.colour(found.nodes[i]) for i in (0, 1, 2, 8)] == list(KINDS.values())
    assert colours == set(KINDS.values())


def test_boxes_of_unnamed_leaves_named_results_and_matrices_of_one_number():
    x = Tensor([[2.0]], requires_grad=True)
    y = x * Tensor(3.0)
    labels = [node.label for node in graph(y.sum(), names={"y": y}).nodes]
    assert labels == [
        "#0 leaf\nshape (1, 1) value 2\ngradient 3",
        "#1 constant\nvalue 3",
        "#2 y = mul\nshape (1, 1) value 6\ngradient 1",
        "#3 sum\nvalue 6\ngradient 1",
    ]


def test_the_largest_drawings_can_be_saved():
    leaf = Tensor([1.0], requires_grad=True)
    leaves = [Tensor([1.0], requires_grad=True) for _ in range(298)]
    figure = graph(minidl.concatenate([leaf, *leaves])).draw()
    assert figure.get_size_inches()[0] * 120 < 2**16  # the most pixels that Matplotlib writes
    y = Tensor(1.0, requires_grad=True)
    for _ in range(299):
        y = -y
    figure = graph(y).draw()
    assert figure.get_size_inches()[1] * 120 < 2**16


# DOT


def test_dot_lists_nodes_and_edges():
    x = Tensor(3.0, requires_grad=True)
    assert graph(x * x, names={"x": x}).dot().splitlines() == [
        "digraph {",
        '  node [shape=box, style="rounded,filled", fontname=monospace];',
        '  n0 [label="#0 x\\nvalue 3\\ngradient 6", color="#E69F00", fillcolor="#E69F0040"];',
        '  n1 [label="#1 mul\\nvalue 9\\ngradient 1", color="#D55E00", fillcolor="#D55E0040"];',
        "  n0 -> n1;",
        "  n0 -> n1;",
        "}",
    ]


def test_dot_escapes_quotes_backslashes_and_new_lines():
    x = Tensor([1.0, 2.0])
    text = graph(x, names={'a"b\\c\nd': x}).dot()
    assert 'label="#0 a\\"b\\\\c\\nd\\nshape (2,)"' in text
    assert all(re.sub(r"\\.", "", row).count('"') % 2 == 0 for row in text.splitlines())


# Gradients of all parameters


def test_gradient_flow_draws_mean_and_largest_of_each_parameter():
    loss, model, _ = cifar10()
    loss.backward()
    (axes,) = plots.gradient_flow(model).axes
    expected = [np.abs(p.grad.numpy()) for p in model.parameters()]
    means, largest = (points.get_xydata() for points in axes.lines)
    np.testing.assert_allclose(means[:, 0], [g.mean() for g in expected], rtol=1e-5)
    np.testing.assert_array_equal(largest[:, 0], [g.max() for g in expected])
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [name for name, _ in model.named_parameters()]
    np.testing.assert_array_equal(largest[:, 1], axes.get_yticks())
    assert axes.get_xscale() == "log"
    assert axes.yaxis_inverted()  # the first layer is at the top
    assert not axes.texts


def test_gradient_flow_says_what_a_log_scale_cannot_show():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))
    values = [0.0, np.nan, np.inf, None, None, 2.0]
    model[1].bias.requires_grad_(False)
    for p, value in zip(model.parameters(), values, strict=True):
        p.grad = None if value is None else minidl.full(p.shape, value)
    figure = plots.gradient_flow(model)
    figure.canvas.draw()
    (axes,) = figure.axes
    assert [(text.get_position()[1], text.get_text()) for text in axes.texts] == [
        (0, "0"),
        (1, "nan"),
        (2, "inf"),
        (3, "frozen"),
        (4, "no gradient"),
    ]
    assert axes.lines[0].get_xydata().tolist() == [[2, 5]]


def test_gradient_flow_draws_nothing_but_zeros():
    model = nn.Linear(2, 1)
    (model(minidl.ones((1, 2))) * 0).sum().backward()
    figure = plots.gradient_flow(model)
    figure.canvas.draw()
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "0"]


@pytest.mark.parametrize("model", [nn.Linear(2, 1), nn.ReLU()])
def test_gradient_flow_expects_backward_first(model):
    with pytest.raises(ValueError, match=r"gradient_flow: got a \w+ without any.*run backward"):
        plots.gradient_flow(model)
