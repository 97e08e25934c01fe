import contextlib

import matplotlib.pyplot as plt
import numpy as np
import pytest

import minidl
from minidl import Tensor, nn
from minidl import functional as F
from minidl.inspect import grad_cam, plots, saliency, summary


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def pictures(n, size=8):
    return np.random.default_rng(0).integers(0, 256, (n, 3, size, size), dtype=np.uint8)


@pytest.mark.parametrize("backend", ["agg", "svg", "pdf", "TkAgg"])
def test_figures_are_closed_once_saved_unless_there_is_a_screen(backend, tmp_path, monkeypatch):
    """Open figures pile up in memory, and showing those of a file backend gives a warning."""
    monkeypatch.setattr(plt, "get_backend", lambda: backend)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(backend))
    plots.save(plots.training_curves({"train_loss": [1.0]}), tmp_path / "curves.png")
    plots.show()
    assert (len(plt.get_fignums()), shown) == ((1, ["TkAgg"]) if backend == "TkAgg" else (0, []))


def test_training_curves_pass_over_what_is_neither_loss_nor_accuracy():
    figure = plots.training_curves({"train_loss": [1.0], "lr": [0.1], "seconds": [3.0]})
    assert [len(axes.lines) for axes in figure.axes] == [1, 0]


def test_each_curve_of_a_panel_has_its_own_look_whatever_its_axes():
    losses = {"training": [2.0, 1.0], "validation": [2.1, 1.5], "stop": {2: 1.5}}
    rates = {"SGD": {0.1: 1.0, 0.3: 2.0}}
    figure = plots.side_by_side({"Loss": losses, "Again": losses, "Rates": rates}, xlabel="epoch")
    left, _, right = figure.axes
    for look in ("color", "marker"):
        assert len({getattr(line, f"get_{look}")() for line in left.lines}) == 3
    np.testing.assert_array_equal(left.lines[1].get_xydata(), [[1, 2.1], [2, 1.5]])
    np.testing.assert_array_equal(right.lines[0].get_xydata(), [[0.1, 1.0], [0.3, 2.0]])
    assert [axes.get_legend() is None for axes in figure.axes] == [False, True, False]
    assert left.get_ylim() == right.get_ylim()
    assert {axes.get_xlabel() for axes in figure.axes} == {"epoch"}


def test_more_curves_than_looks_are_refused():
    six = {f"curve {i}": [1.0, 2.0] for i in range(6)}
    assert len(plots.side_by_side({"six": six}).axes[0].lines) == 6
    with pytest.raises(ValueError, match="side_by_side: got 7 curves, expected at most 6"):
        plots.side_by_side({"seven": six | {"curve 6": [1.0, 2.0]}})


def test_curves_of_one_epoch_differ_too():
    history = {"train_loss": [2.0], "validation_loss": [2.1]}
    losses = plots.training_curves(history).axes[0].lines
    assert len({line.get_marker() for line in losses}) == 2
    assert len({line.get_color() for line in losses}) == 2


def test_panels_of_different_quantities_have_their_own_scales():
    figure = plots.side_by_side({"a": {"x": [1.0, 2.0]}, "b": {"x": [1e3, 2e3]}}, share_y=False)
    left, right = figure.axes
    assert left.get_ylim()[1] < 3 < right.get_ylim()[0]


def test_pixels_carry_their_values_and_their_signs_colours():
    axes = plots.subplots()[1]
    plots.draw_pixels(axes, [[-2, -0.001, 0.125], [np.nan, 1, 2]], "x", left=3)
    assert [text.get_text() for text in axes.texts] == ["-2", "0", "0.12", "1", "2", "x"]
    assert [text.get_color() for text in axes.texts] == ["white", *["black"] * 3, "white", "black"]
    (mesh,) = axes.collections
    shares = np.ma.filled(mesh.get_array(), np.nan)
    np.testing.assert_allclose(shares, [[-1, -(0.0005**0.5), 0.25], [np.nan, 0.5**0.5, 1]])
    blue, _, _, empty, _, red = mesh.to_rgba(mesh.get_array()).reshape(6, 4)
    assert blue[2] > blue[0]
    assert red[0] > red[2]
    assert empty[3] == 0
    assert axes.get_xlim() == (3, 6)
    assert axes.yaxis_inverted()


def test_pixels_without_signs_are_blue_and_a_quarter_differs_from_nothing_beside_a_4():
    axes = plots.subplots()[1]
    plots.draw_pixels(axes, [[0, 0.25, 4]], frame=(0, 1, 1, 2))
    nothing, quarter, four = axes.collections[0].to_rgba([0, 0.25, 1])
    assert nothing[0] - quarter[0] > 0.1
    assert quarter[0] > four[0] + 0.2
    assert quarter[2] > quarter[0]
    assert (axes.patches[0].get_xy(), axes.patches[0].get_width()) == ((1, 0), 2)
    plots.draw_pixels(axes, np.zeros((1, 1)))  # no division by 0
    plots.draw_pixels(axes := plots.subplots()[1], np.linspace(-1, 2, 121).reshape(11, 11))
    assert [text.get_text() for text in axes.texts if text.get_text()] == ["-1 to 2"]


def test_images_of_values_have_one_scale_with_a_label():
    tiles = {"dark": np.zeros((2, 2)), "grey": np.full((2, 2), 0.25), "white": np.ones((2, 2))}
    *panels, bar = plots.images(tiles, columns=2, label="brightness").axes
    assert [axes.get_title() for axes in panels] == ["dark", "grey", "white", ""]
    assert {axes.images[0].get_clim() for axes in panels[:3]} == {(0, 1)}
    assert [axes.axison for axes in panels] == [True, True, True, False]
    assert bar.get_ylabel() == "brightness"


def test_misclassified_images_come_in_the_order_of_certainty():
    scores = np.array([[3.0, 0.0], [0.0, 1.0], [0.0, 5.0], [2.0, 0.0], [0.0, 0.1]])
    labels = np.array([0, 0, 0, 1, 1])
    figure = plots.misclassified(pictures(5), scores, labels, ["cat", "dog"], count=2)
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == ["dog, 99%\n(is cat)", "cat, 88%\n(is dog)"]
    assert figure.get_suptitle() == "3 of 5 are misclassified"
    np.testing.assert_array_equal(
        figure.axes[0].images[0].get_array(), pictures(5)[2].transpose(1, 2, 0)
    )


def test_misclassified_images_of_a_network_without_fault():
    figure = plots.misclassified(pictures(2), np.eye(2), np.arange(2), ["cat", "dog"])
    assert figure.get_suptitle() == "0 of 2 are misclassified"


@pytest.mark.parametrize("names", [["cat"], ["cat", "dog", "fox"]])
def test_names_of_more_or_fewer_classes_are_refused(names):
    with pytest.raises(ValueError, match=rf"misclassified: got {len(names)} names for 2 classes"):
        plots.misclassified(pictures(2), np.eye(2), np.arange(2), names)
    with pytest.raises(ValueError, match=r"confusion_matrix: got .* with classes=train.classes"):
        plots.confusion_matrix(np.eye(2, dtype=int), names)


def test_grad_cam_before_a_global_average_is_the_class_activation_map():
    minidl.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.GlobalAvgPool(), nn.Linear(4, 5))
    x = minidl.randn((2, 3, 8, 8))
    maps = net[1](net[0](x)).numpy()
    classes = np.array([3, 1])
    weights = net[3].weight.numpy()[classes] / 36  # the gradient of a mean over 6 x 6
    expected = np.maximum(np.einsum("nc,nchw->nhw", weights, maps), 0)
    np.testing.assert_allclose(grad_cam(net, net[1], x, classes), expected, rtol=1e-4, atol=1e-7)
    assert net.training
    assert all(gradient is None for _, gradient in net.named_gradients())


def test_explanations_are_of_the_highest_score_unless_told_otherwise():
    minidl.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    x = minidl.randn((3, 3, 8, 8))
    highest = net(x).numpy().argmax(1)
    np.testing.assert_array_equal(saliency(net, x), saliency(net, x, highest))
    assert not np.allclose(saliency(net, x), saliency(net, x, (highest + 1) % 5))
    np.testing.assert_array_equal(grad_cam(net, net[1], x), grad_cam(net, net[1], x, highest))


def test_saliency_is_the_slope_of_the_score():
    weight = np.random.default_rng(0).standard_normal((5, 3 * 16))
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 5)).to(dtype="float64")
    net[1].load_state_dict({"weight": weight, "bias": np.zeros(5)})
    found = saliency(net, Tensor(np.ones((1, 3, 4, 4))), np.array([2]))
    np.testing.assert_allclose(found[0], np.abs(weight[2].reshape(3, 4, 4)).max(0))


def test_explanations_run_on_every_device(device):
    minidl.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    x = minidl.randn((2, 3, 8, 8))
    expected = grad_cam(net, net[1], x), saliency(net, x)
    net, x = net.to(device), Tensor(x.numpy(), device=device)
    np.testing.assert_allclose(grad_cam(net, net[1], x), expected[0], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(saliency(net, x), expected[1], rtol=1e-4, atol=1e-7)


class Tower(nn.Module):
    """Words or images, a body that may run under no_grad, and a head with dropout."""

    def __init__(self, first, is_cut=False):
        self.first, self.body = first, nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Sequential(nn.ReLU(), nn.GlobalAvgPool(), nn.Dropout(0.5), nn.Linear(4, 3))
        self.is_cut = is_cut

    def forward(self, x):
        with minidl.no_grad() if self.is_cut else contextlib.nullcontext():
            first = self.first(x)
            is_words = isinstance(self.first, nn.Embedding)
            features = self.body(first.transpose((0, 3, 1, 2)) if is_words else first)
        return self.head(features)


def looks(net, frozen, is_training, recording, explain):
    """Return an explanation of a network in some state, and check that it stays in that state."""
    net.train(is_training).requires_grad_()
    for part in frozen:
        part.requires_grad_(False)
    stream = minidl.manual_seed(1).bit_generator.state

    def state():
        modes = [module.training for module in net.modules()]
        return modes, [(p.requires_grad, p.grad) for p in net.parameters()]

    before = state()
    with recording():
        found = explain()
    assert state() == before
    assert minidl.random.generator().bit_generator.state == stream
    return found


@pytest.mark.parametrize("kind", ["images", "words", "a body under no_grad"])
@pytest.mark.parametrize("recording", [contextlib.nullcontext, minidl.no_grad])
@pytest.mark.parametrize("is_training", [False, True])
def test_explanations_of_a_frozen_network_are_the_same(kind, recording, is_training, device):
    minidl.manual_seed(0)
    first = nn.Embedding(9, 4) if kind == "words" else nn.Conv2d(3, 4, 3)
    net = Tower(first, is_cut=kind == "a body under no_grad").to(device)
    x = Tensor(np.arange(48).reshape(1, 6, 8) % 9, device=device)
    if kind != "words":
        x = minidl.randn((2, 3, 8, 8)).to(device)
    explanations = {"grad_cam": lambda: grad_cam(net, net.body, x)}
    if kind == "images":
        explanations["saliency"] = lambda: saliency(net, x)
        explanations["first"] = lambda: grad_cam(net, net.first, x)
        explanations["summary"] = lambda: str(minidl.inspect.summary(net, (3, 8, 8)))
    for explain in explanations.values():
        expected = looks(net, (), False, contextlib.nullcontext, explain)
        for frozen in ([net.first], [net.first, net.body], [net.head], [net]):
            found = looks(net, frozen, is_training, recording, explain)
            np.testing.assert_array_equal(found, expected)
    assert not x.requires_grad


def test_grad_cam_leaves_a_tensor_alone_that_a_layer_only_passes_on():
    class Template(nn.Module):
        def __init__(self):
            self.maps = nn.Parameter(np.ones((1, 2, 3, 3), np.float32), requires_grad=False)

        def forward(self, x):
            return self.maps

    net = nn.Sequential(Template(), nn.GlobalAvgPool(), nn.Linear(2, 2))
    grad_cam(net, net[0], minidl.ones((1, 3)), [0])
    assert not net[0].maps.requires_grad


def test_gradient_flow_tells_frozen_parameters_from_unused_ones():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    net[1](net[0](minidl.ones((1, 2)))).sum().backward()
    texts = [text.get_text() for text in plots.gradient_flow(net).axes[0].texts]
    assert texts == ["frozen", "frozen", "no gradient", "no gradient"]
    with pytest.raises(ValueError, match=r"without any gradient; all its parameters are frozen"):
        plots.gradient_flow(nn.Linear(2, 2).requires_grad_(False))


def test_grad_cam_refuses_layers_without_maps():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    x = minidl.zeros((1, 3, 8, 8))
    for layer in (net[2], nn.ReLU()):
        with pytest.raises(
            ValueError, match=r"grad_cam: \w+\(.* did not run .* or its output is not"
        ):
            grad_cam(net, layer, x)


@pytest.mark.parametrize(("draw", "size"), [(plots.grad_cam, 4), (plots.saliency, 8)])
def test_explanations_are_drawn_under_their_pictures(draw, size):
    maps = np.random.default_rng(0).random((3, size, size))
    figure = draw(pictures(3), maps, ["a", "b", "c"])
    assert [axes.get_title() for axes in figure.axes[:3]] == ["a", "b", "c"]
    drawn = np.stack([axes.images[-1].get_array() for axes in figure.axes[3:6]])
    largest = maps.max((1, 2), keepdims=True) if draw is plots.grad_cam else 1  # drawn as shares
    np.testing.assert_array_equal(drawn, maps / largest)
    figure.canvas.draw()


def test_grad_cam_without_evidence_is_drawn():
    figure = plots.grad_cam(pictures(1), np.zeros((1, 4, 4)), ["nothing"])
    assert figure.axes[1].images[-1].get_array().max() == 0


def test_an_architecture_is_drawn_row_by_row():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    net = nn.Sequential(net, nn.Linear(5 * 3 * 3, 10))
    (axes,) = plots.architecture(summary(net, (3, 8, 8)), (3, 8, 8)).axes
    assert [text.get_text() for text in axes.texts] == [
        *("3 x 8 x 8", "image", "5 x 6 x 6", "Conv2d, ReLU", "5 x 3 x 3", "MaxPool2d, Flatten"),
        *("10", "Linear"),
    ]
    assert len(axes.patches) == 3 + 4 + 4 + 5  # a sheet more for twice as many maps
    sides = [patch.get_width() for patch in axes.patches]
    assert sides == sorted(sides, reverse=True)


def test_rows_of_images_share_a_scale_where_values_are_negative():
    small, large = np.array([[-1.0, 0.5]]), np.array([[4.0, -2.0]])
    rows = {"weights": [small, large], "maps": [np.array([[0.0, 3.0]]), pictures(1)[0].T]}
    figure = plots.image_rows(rows, "title", "weight")
    cells = np.array(figure.axes[:4]).reshape(2, 2)
    assert [axes.get_ylabel() for axes in cells[:, 0]] == ["weights", "maps"]
    assert [axes.images[0].get_clim() for axes in cells[0]] == [(-4, 4), (-4, 4)]
    assert cells[1, 0].images[0].get_clim() == (0, 3)
    assert figure.axes[4].get_ylabel() == "weight"
    assert len(plots.image_rows({"a": [np.zeros((2, 2))], "b": []}).axes) == 2  # no scale


def test_pooling_shares_are_gradients_on_one_scale():
    window = minidl.Tensor([[[[1.0, 2], [3, 4]]]])
    pools = {
        "max": lambda x: F.max_pool2d(x, 2),
        "average": lambda x: F.avg_pool2d(x, 2),
        "min": lambda x: F.min_pool2d(x, 2),
    }
    with minidl.no_grad():
        figure = plots.pooling_shares(window, pools, columns=2)
    *panels, empty = figure.axes
    written = [[text.get_text() for text in axes.texts] for axes in panels]
    quarters = ["0.25"] * 4
    assert written == [
        ["0", "0", "0", "1", "max: 4"],
        [*quarters, "average: 2.5"],
        ["1", "0", "0", "0", "min: 1"],
    ]
    assert len({axes.collections[0].get_clim() for axes in panels}) == 1
    assert not empty.axison
    assert window.grad is None
