"""Checks of the exercises for chapter 7."""

import numpy as np

import minidl
from minidl.inspect import summary


def two_sets():
    rng = np.random.default_rng(0)
    scale = np.array([1, 2, 4])[:, None, None]
    sets = (rng.integers(low, low + 20, (3, 3, 1, 2)) * scale for low in (10, 30))
    return tuple(images.astype(np.uint8) for images in sets)


def normalized(images, of, axes):
    return (images - of.mean(axes, keepdims=True)) / of.std(axes, keepdims=True)


def test_normalize_gives_each_channel_mean_0_and_deviation_1(exercise):
    train, test = two_sets()
    expected = normalized(train, train, (0, 2, 3))
    got = exercise.call("normalize", train, test)
    hints = {
        "each channel has its own mean and standard deviation: leave axis 1 out": (
            normalized(train, train, (0, 1, 2, 3))
        ),
        "take the mean over images and pixels, axes (0, 2, 3), not over images only": (
            normalized(train, train, 0)
        ),
        "each image was normalised by itself: take the mean over all training images": (
            normalized(train, train, (2, 3))
        ),
        "divide by the standard deviation, not by its square": (
            expected / train.std((0, 2, 3), keepdims=True)
        ),
        "the standard deviation is not 1 yet: divide by it": (
            train - train.mean((0, 2, 3), keepdims=True)
        ),
        "pixels between 0 and 1 are not normalised yet": train / 255,
    }
    exercise.compare("the training images of normalize", got[0], expected.astype(np.float32), hints)
    usual = "NumPy computes means in float64, twice the memory: .astype(np.float32)"
    exercise.compare("their dtype", str(got[0].dtype), "float32", usual=usual)


def test_normalize_learns_nothing_from_the_test_images(exercise):
    train, test = two_sets()
    both = np.concatenate([train, test])
    hints = {
        "these are the test images' own mean and deviation: use the training images'": (
            normalized(test, test, (0, 2, 3))
        ),
        "the test images were used for mean and deviation: use the training images only": (
            normalized(test, both, (0, 2, 3))
        ),
    }
    got = exercise.call("normalize", train, test)
    expected = normalized(test, train, (0, 2, 3)).astype(np.float32)
    exercise.compare("the test images of normalize", got[1], expected, hints)


def test_network_has_the_requested_layers(exercise):
    model = exercise.call("network", 8, 8, 10)
    sizes = [parameter.shape for parameter in model.parameters()]
    expected = [(8, 3, 3, 3), (8,), (16, 8, 3, 3), (16,), (10, 64), (10,)]
    usual = "two convolutions and a linear layer, each with weight and bias"
    exercise.compare("the shapes of network(8, 8, 10)'s parameters", sizes, expected, usual=usual)


def test_network_accepts_images_of_any_size(exercise):
    usual = "two pools halve height and width: 16 * (height // 4) * (width // 4) values are left"
    for height, width, classes in ((32, 32, 10), (8, 12, 5)):
        model = exercise.call("network", height, width, classes)
        said = f"network({height}, {width}, {classes}) given images {(2, 3, height, width)}"
        with exercise.in_words(said, usual):
            scores = model(minidl.zeros((2, 3, height, width)))
        exercise.compare(f"{said}, shape of the scores", scores.shape, (2, classes), usual=usual)


def test_network_has_two_relus_and_returns_raw_scores(exercise):
    model = exercise.call("network", 8, 8, 10)
    with exercise.in_words("network(8, 8, 10)"), minidl.no_grad():
        kinds = [layer.kind for layer in summary(model, (3, 8, 8)).layers]
        scores = model(minidl.randn((50, 3, 8, 8), rng=np.random.default_rng(0))).numpy()
    usual = "each convolution needs a ReLU after it: without it, two convolutions are just one"
    exercise.compare(
        "the number of ReLUs", kinds.count("ReLU"), 2, {"no ReLU after the scores": 3}, usual
    )
    usual = "cross_entropy takes raw scores and computes the probabilities itself"
    summed = bool(np.allclose(scores.sum(1), 1) or (scores >= 0).all() or (scores <= 0).all())
    exercise.compare("the scores are probabilities, or of one sign", summed, False, usual=usual)


def test_confusion_matrix_by_hand(exercise):
    matrix, recall = np.array([[1, 2], [0, 1]]), np.array([1 / 3, 1])
    hints = {
        "matrix[labels, guesses] += 1 counts a repeated pair only once: use np.add.at": (
            [[1, 1], [0, 1]],
            [0.5, 1.0],
        ),
        "transposed: rows are the true classes, columns the guesses": (matrix.T, [1.0, 1 / 3]),
        "that is precision, a share of a column; recall is a share of a row": (
            matrix,
            [1.0, 1 / 3],
        ),
        "the matrix holds counts of images, not shares of a class": (
            matrix / matrix.sum(1, keepdims=True),
            recall,
        ),
        "recall is a share of each row, not of all images": (matrix, [0.25, 0.25]),
    }
    labels, guesses = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1])
    expected = (matrix, recall)
    exercise.expect("confusion_matrix", labels, guesses, 2, expected=expected, hints=hints)


def test_confusion_matrix_has_a_row_for_every_class(exercise):
    labels, guesses = np.array([0, 1, 2, 2]), np.array([1, 1, 0, 2])
    expected = ([[0, 1, 0], [0, 1, 0], [1, 0, 1]], [0.0, 1.0, 0.5])
    exercise.expect("confusion_matrix", labels, guesses, 3, expected=expected)
