import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest

import minidl
from minidl import functional as F
from minidl import models, nn
from minidl.inspect import plots, pooling_effects, summary


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_summary_counts_the_cifar10_cnn_as_by_hand():
    table = summary(models.cifar10_cnn(), (3, 32, 32))
    assert [layer.output_shape for layer in table.layers if layer.kind == "Conv2d"] == [
        (32, 30, 30),
        (64, 13, 13),
        (64, 4, 4),
    ]
    assert [layer.parameters for layer in table.layers if layer.parameters] == [
        3 * 32 * 9 + 32,
        32 * 64 * 9 + 64,
        64 * 64 * 9 + 64,
        1024 * 64 + 64,
        64 * 10 + 10,
    ]
    assert table.parameters == 122_570
    assert table.multiply_adds == (
        30 * 30 * 32 * 27 + 13 * 13 * 64 * 288 + 4 * 4 * 64 * 576 + 1024 * 64 + 64 * 10
    )


def test_summary_counts_grouped_and_transposed_convolutions():
    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ConvTranspose2d(8, 2, 2, stride=2))
    grouped, transposed = summary(net, (4, 6, 6)).layers
    assert grouped.multiply_adds == 4 * 4 * 8 * 2 * 9
    assert transposed.output_shape == (2, 8, 8)
    assert transposed.multiply_adds == 4 * 4 * 8 * 2 * 4


def test_summary_counts_the_rows_of_a_linear_layer():
    (layer,) = summary(nn.Linear(3, 5), (7, 3)).layers
    assert (layer.output_shape, layer.multiply_adds, layer.name) == ((7, 5), 7 * 15, "")


def test_summary_counts_shared_parameters_once():
    layer = nn.Linear(3, 3)
    table = summary(nn.Sequential(layer, nn.ReLU(), layer), (3,))
    assert [row.parameters for row in table.layers] == [12, 0, 0]
    assert table.multiply_adds == 18


class Scaled(nn.Module):
    """Holds a parameter beside a layer; returns the layer's output, or that scaled."""

    def __init__(self, is_used):
        self.conv = nn.Conv2d(1, 2, 3)
        self.scale = nn.Parameter(np.ones((2, 1, 1), np.float32))
        self.is_used = is_used

    def forward(self, x):
        return self.conv(x) * self.scale if self.is_used else self.conv(x)


@pytest.mark.parametrize("is_used", [True, False])
def test_summary_counts_parameters_beside_layers(is_used):
    table = summary(nn.Sequential(Scaled(is_used), nn.Conv2d(2, 1, 3)), (1, 8, 8))
    assert [row.name for row in table.layers] == ["0.conv", "0", "1"]
    assert [row.parameters for row in table.layers] == [20, 2, 19]
    assert [row.receptive_field for row in table.layers] == [(3, 3), (3, 3), (5, 5)]
    assert [row.memory for row in table.layers] == [2 * 36 * 4, is_used * 2 * 36 * 4, 16 * 4]


def test_summary_leaves_modes_and_random_numbers_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.Linear(3, 2))
    model[1].eval()
    before = minidl.manual_seed(0).bit_generator.state
    summary(model, (3,))
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert minidl.random.generator().bit_generator.state == before


def test_summary_keeps_the_modes_when_the_network_fails():
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="linear: got an input of 4 features"):
        summary(model, (4,))
    assert model.training


def test_summary_tells_receptive_fields_and_memory_of_the_cifar10_cnn_as_by_hand():
    layers = summary(models.cifar10_cnn(), (3, 32, 32)).layers
    # Convolution 3: + 2 jumps; pool 2: + 1 jump, which doubles; Flatten: + 3 jumps, of 4 places.
    sees = [3, 3, 4, 4 + 2 * 2, 8, 8 + 2, 10 + 2 * 4, 18, 18 + 3 * 4, 30, 30, 30]
    assert [layer.receptive_field for layer in layers] == [(size, size) for size in sees]
    numbers = [28_800, 28_800, 7_200, 10_816, 10_816, 2_304, *[1024] * 3, 64, 64, 10]
    assert [layer.memory for layer in layers] == [4 * n for n in numbers]
    assert summary(models.cifar10_cnn(), (3, 32, 32)).memory == 4 * sum(numbers)


@pytest.mark.parametrize(
    ("layers", "sees"),
    [
        ([nn.Conv2d(1, 1, (3, 5), stride=(2, 1)), nn.Conv2d(1, 1, 3)], (3 + 2 * 2, 5 + 2)),
        ([nn.Conv2d(1, 1, 3, dilation=4, padding=4), nn.AvgPool2d(2)], (10, 10)),
        ([nn.MaxPool2d(3, 1), nn.GlobalAvgPool()], (16, 16)),
        ([nn.MaxPool2d(2), nn.ConvTranspose2d(1, 1, 2, stride=2), nn.Conv2d(1, 1, 2)], (3, 3)),
        ([nn.ConvTranspose2d(1, 1, 4, stride=2)], (2, 2)),
        ([nn.MaxBlurPool2d(2, 2, 3), nn.Conv2d(1, 1, 3)], (4 + 2 * 2, 4 + 2 * 2)),
        ([nn.BlurPool2d(2, 4)], (4, 4)),
        ([nn.ConvPool2d(1, 1, 3, 2), nn.Conv2d(1, 1, 2)], (6, 6)),
        ([nn.AdaptiveAvgPool2d(3), nn.ReLU()], None),
        ([nn.AdaptiveAvgPool2d(1)], (16, 16)),
    ],
)
def test_receptive_fields_follow_windows_strides_and_dilations(layers, sees):
    assert summary(nn.Sequential(*layers), (1, 16, 16)).layers[-1].receptive_field == sees


def test_receptive_fields_are_those_that_gradients_find():
    """Without padding, and with weights of one sign, the gradient of one place reaches them all."""
    net = nn.Sequential(
        *(nn.Conv2d(1, 1, 3, stride=2), nn.AvgPool2d(3, 2), nn.Conv2d(1, 1, (2, 3), dilation=2))
    )
    for parameter in net.parameters():
        parameter.data = np.ones(parameter.shape)
    x = minidl.ones((1, 1, 40, 40)).requires_grad_()
    net(x)[0, 0, 1, 1].sum().backward()
    reached = np.argwhere(x.grad.numpy()[0, 0])
    found = tuple(np.ptp(reached, axis=0) + 1)
    assert summary(net, (1, 40, 40)).layers[-1].receptive_field == found


def test_a_sum_of_branches_sees_as_the_branch_that_sees_most():
    class Residual(nn.Module):
        def __init__(self):
            self.conv1, self.conv2 = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
            self.shortcut, self.relu = nn.Conv2d(4, 4, 1), nn.ReLU()

        def forward(self, x):
            return self.relu(self.conv2(self.conv1(x)) + self.shortcut(x))

    table = summary(nn.Sequential(Residual(), Residual()), (4, 8, 8))
    sees = [layer.receptive_field[0] for layer in table.layers if layer.kind == "ReLU"]
    assert sees == [5, 9]
    names = [layer.name for layer in table.layers[:4]]
    assert names == ["0.conv1", "0.conv2", "0.shortcut", "0.relu"]


@pytest.mark.skipif(not hasattr(models, "resnet50"), reason="there is no ResNet-50 yet")
def test_summary_counts_resnet_50_as_by_hand():
    table = summary(models.resnet50(), (3, 224, 224))
    convolutions = [(3, 64, 7, 112)]  # channels in and out, kernel, size of the output
    channels, size = 64, 56
    for stage, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True)):
        for block in range(blocks):
            first = block == 0
            before, size = size, size // (2 if first and stage else 1)
            convolutions += [(channels, width, 1, before), (width, width, 3, size)]
            convolutions += [(width, 4 * width, 1, size)]
            convolutions += [(channels, 4 * width, 1, size)] if first else []
            channels = 4 * width
    weights = [a * b * k * k for a, b, k, _ in convolutions]
    products = [w * size**2 for w, (*_, size) in zip(weights, convolutions, strict=True)]
    norms = sum(2 * b for _, b, _, _ in convolutions)
    assert table.parameters == sum(weights) + norms + 2048 * 1000 + 1000 == 25_557_032
    assert table.multiply_adds == sum(products) + 2048 * 1000 == 4_089_184_256
    last = next(layer for layer in reversed(table.layers) if layer.kind == "Conv2d")
    assert last.receptive_field == (427, 427)


def test_summary_does_not_guess_behind_windows_that_are_no_layers():
    class Hidden(nn.Module):
        def __init__(self):
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.relu(minidl.functional.max_pool2d(x, 2))

    assert summary(Hidden(), (1, 8, 8)).layers[-1].receptive_field is None


def test_summary_takes_layers_that_get_plain_arrays():
    class Text(nn.Module):
        def __init__(self):
            self.embedding, self.conv = nn.Embedding(50, 8), nn.Conv1d(8, 4, 3)

        def forward(self, words):
            return self.conv(self.embedding(words.numpy()).transpose(0, 2, 1))

    table = summary(Text(), (12,))
    assert [layer.output_shape for layer in table.layers] == [(12, 8), (4, 10)]
    assert table.multiply_adds == 10 * 4 * 8 * 3


class Giving(nn.Module):
    """Gives what a function makes of its inputs, of which there may be none."""

    def __init__(self, give):
        self.give = give

    def forward(self, *inputs):
        return self.give(*inputs)


def test_summary_takes_layers_that_give_several_tensors_or_none():
    class Net(nn.Module):
        def __init__(self):
            self.named = Giving(lambda x: {"mask": None, "all": [x * 1]})
            self.nothing = Giving(lambda x: None)
            self.bias = Giving(lambda: minidl.ones(3))
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            self.nothing(x)
            return self.linear(self.named(x)["all"][0] + self.bias())

    table = summary(Net(), (3,))
    assert [row.name for row in table.layers] == ["named", "bias", "linear"]
    assert [row.output_shape for row in table.layers] == [(3,), (), (2,)]


def test_summary_takes_words_and_sequences():
    text = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 3))
    assert summary(text, (12,)).layers[-1].output_shape == (12, 3)
    assert summary(text, (12,)).layers[-1].receptive_field is None
    sequence = nn.Sequential(nn.Conv1d(8, 4, 3), nn.MaxPool1d(2), nn.GlobalMaxPool())
    layers = summary(sequence, (8, 12)).layers
    assert [layer.receptive_field for layer in layers] == [(3,), (4,), (12,)]


def test_the_table_lines_up():
    lines = str(summary(models.cifar10_cnn(), (3, 32, 32))).splitlines()
    assert lines[0].split() == [
        "layer",
        "kind",
        "output",
        "parameters",
        "multiply-adds",
        *("sees", "kB"),
    ]
    assert lines[-1].split() == ["total", "122,570", "4,548,608", "367.8"]
    assert len({len(line) for line in lines[1:]}) == 1


def test_training_curves_draw_percentages_over_epochs():
    figure = plots.training_curves(
        {
            "train_loss": [2.0, 1.0],
            "validation_loss": [2.1, 1.5],
            "test_loss": [2.2, 1.6],
            "test_accuracy": [0.1, 0.5],
            "lr": [0.1, 0.1],
        }
    )
    losses, accuracies = figure.axes
    assert [line.get_label() for line in losses.lines] == ["training", "validation", "test"]
    for look in ("color", "marker", "linestyle"):  # each set has its own
        assert len({getattr(line, f"get_{look}")() for line in losses.lines}) == 3
    np.testing.assert_array_equal(accuracies.lines[0].get_xydata(), [[1, 10], [2, 50]])
    assert (accuracies.get_xlabel(), accuracies.get_ylabel()) == ("epoch", "accuracy (%)")


def test_the_confusion_matrix_is_drawn_in_percent_of_the_truth():
    figure = plots.confusion_matrix(np.array([[3, 1], [0, 0]]), ["cat", "dog"])
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["75", "25"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    assert "75.0%" in axes.get_title()


@pytest.mark.parametrize("count", [1, 100])
def test_a_confusion_matrix_is_legible_for_any_number_of_classes(count):
    names = [f"class number {i}" for i in range(count)]
    figure = plots.confusion_matrix(np.eye(count, dtype=int), names)
    assert len(figure.axes[0].texts) == (1 if count == 1 else 0)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    for above, below in itertools.pairwise(boxes):
        assert above.y0 > below.y0 + 0.5 * below.height


@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (9, 1, 5, 5), (2, 8, 3, 3)])
def test_kernels_are_drawn_within_their_range(shape):
    weight = np.random.default_rng(0).standard_normal(shape)
    figure = plots.kernels(weight)
    drawn = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(drawn) == shape[0]
    assert all(0 <= tile.min() <= tile.max() <= 1 for tile in drawn)


def test_kernels_of_zeros_are_grey():
    figure = plots.kernels(np.zeros((1, 3, 2, 2)))
    assert (figure.axes[0].images[0].get_array() == 0.5).all()


def test_feature_maps_share_one_scale_and_need_no_captions():
    maps = np.stack([np.zeros((4, 4)), np.full((4, 4), 7.0)])
    drawn = [axes.images[0] for axes in plots.images(maps, vmax=7).axes if axes.images]
    assert [image.get_clim() for image in drawn] == [(0.0, 7.0)] * 2


def test_images_carry_their_captions():
    figure = plots.images(np.zeros((3, 3, 8, 8), np.uint8), ["a", "b", "c"], columns=2)
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c", ""]


def test_save_makes_the_folder_and_closes_the_figure(tmp_path):
    path = plots.save(plots.kernels(np.ones((1, 3, 2, 2))), tmp_path / "a" / "b.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert plt.get_fignums() == []


def test_show_does_nothing_without_a_screen():
    plots.show()


def test_observers_see_every_module_and_go_when_the_block_ends():
    seen = []
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with nn.observe(lambda module, inputs, output: seen.append(type(module).__name__)):
        net(minidl.ones((1, 2)))
    net(minidl.ones((1, 2)))
    assert seen == ["Linear", "ReLU", "Sequential"]


def test_pooling_effects_are_as_computed_by_hand():
    x = np.random.default_rng(1).random((4, 2, 16, 16), np.float32)

    def average(images):
        return images.reshape(-1, 2, images.shape[2] // 2, 2, images.shape[3] // 2, 2).mean((3, 5))

    def size(array):
        return np.sqrt(np.mean(array**2))

    images = minidl.Tensor(x)
    found = pooling_effects(lambda t: F.avg_pool2d(t, 2), images, np.random.default_rng(3))
    assert list(found) == ["shift", "noise", "salt", "lone", "lost"]
    still, moved = (average(x[..., 4:12, 4 - s : 12 - s]) for s in (0, 1))
    assert found["shift"] == pytest.approx(size(moved - still) / still.std(), rel=1e-5)
    rng = np.random.default_rng(3)
    noisy = np.maximum(x + rng.normal(0, 0.1, x.shape), 0)
    salted = np.where(rng.random(x.shape) < 0.02, 1, x)
    for name, other in (("noise", noisy), ("salt", salted)):
        clean = average(x)
        left = size(average(other) - clean) / clean.std() / (size(other - x) / x.std())
        assert found[name] == pytest.approx(left, rel=1e-4)
    assert found["lone"] == 0.25
    repeated = average(x).repeat(2, 2).repeat(2, 3)
    assert found["lost"] == pytest.approx(size(repeated - x) / x.std(), rel=1e-5)
    assert pooling_effects(lambda t: t, images)["noise"] == pytest.approx(1)
    assert pooling_effects(F.max_blur_pool2d, images) == pooling_effects(F.max_blur_pool2d, images)
    with pytest.raises(ValueError, match=r"shape \(1, 1, 9, 16\), expected .* h, w >= 10"):
        pooling_effects(lambda t: t, minidl.zeros(1, 1, 9, 16))
