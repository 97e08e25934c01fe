"""Exercises: the blanks fail, the answers pass, and what is usually wrong is told so in words."""

import ast
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .test_architecture import test_chapters_use_public_names_only as check_public_names

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "chapters").glob("ch*.py"))
EXERCISES = sorted((ROOT / "chapters" / "exercises").glob("ch*.py"))
SOLUTIONS = sorted((ROOT / "chapters" / "solutions").glob("*.py"))
BY_CHAPTER = {path.stem[:4]: path for path in SOLUTIONS}


def load(path):
    spec = importlib.util.spec_from_file_location(f"exercises_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


shared = load(ROOT / "chapters" / "exercises" / "conftest.py")
CHECKS = {}
for path in EXERCISES:
    module = load(path.with_name(f"test_{path.name}"))
    CHECKS[path.stem[:4]] = [f for name, f in vars(module).items() if name.startswith("test_")]


def failures(path):
    """Run a chapter's checks on a file of answers; return what each says, None where it passes."""
    said = {}
    for check in CHECKS[path.stem[:4]]:
        try:
            shared.judge(check, shared.Exercise(path))
            said[check.__name__] = None
        except pytest.fail.Exception as failure:
            said[check.__name__] = str(failure)
    return said


def functions(path):
    return {
        node.name: ast.unparse(node.args)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }


def test_every_chapter_has_exercises():
    assert [path.stem[:4] for path in EXERCISES] == [f"ch{n:02}" for n in range(1, 12)]
    assert [path.name for path in EXERCISES] == [path.name for path in SOLUTIONS]
    assert {path.name for path in CHAPTERS} <= {path.name for path in EXERCISES}


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_a_chapter_has_three_exercises_with_the_same_arguments_in_the_answers(path):
    asked, answered = functions(path), functions(BY_CHAPTER[path.stem[:4]])
    assert len(asked) >= 3
    assert asked.items() <= answered.items()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert f"pytest chapters/exercises -k {path.stem[:4]}" in ast.get_docstring(tree)
    for node in tree.body:
        assert not isinstance(node, ast.FunctionDef) or ast.get_docstring(node), node.name


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_a_blank_fails_every_check_and_says_that_it_is_blank(path):
    said = failures(path)
    for name, text in said.items():
        assert text is not None, f"{name} passes on a blank"
        assert re.fullmatch(rf"not filled in yet: .* \({path.name}, line \d+\)", text), text
    checked = {name for name in functions(path) if any(name in text for text in said.values())}
    assert checked == set(functions(path))


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_an_answer_passes_every_check(path):
    assert set(failures(path).values()) == {None}


@pytest.mark.parametrize("path", [*EXERCISES, *SOLUTIONS], ids=lambda path: path.parent.name)
def test_exercises_and_answers_use_public_names_only(path):
    check_public_names(path)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("import numpie\n", r"line 1: import numpie\n  ModuleNotFoundError: No module named"),
        ("x = 1\ndef f(:\n", r"line 2: def f\(:\n  SyntaxError: invalid syntax"),
        ("\n\n1 / 0\n", r"line 3: 1 / 0\n  ZeroDivisionError: division by zero"),
        (None, r"FileNotFoundError: "),
    ],
)
@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_no_check_passes_on_a_file_that_cannot_be_read(path, broken, says, tmp_path):
    file = tmp_path / path.name
    if broken is not None:
        file.write_text(broken + path.read_text(encoding="utf-8"), encoding="utf-8")
    for text in failures(file).values():
        assert text.startswith(f"{path.name} cannot be read, so none of it can be checked\n")
        assert re.search(says, text), text


@pytest.mark.parametrize(
    "body", ["return None", "return ...", "pass", "return []", "raise OSError"]
)
@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_no_check_passes_on_an_answer_that_does_nothing(path, body, tmp_path):
    """Not even where the check compares little: every function of the file does the same."""
    file = tmp_path / path.name
    file.write_text("".join(f"def {n}({a}):\n    {body}\n" for n, a in functions(path).items()))
    assert None not in failures(file).values()


def test_a_missing_function_is_asked_for(tmp_path):
    file = tmp_path / "ch01_tensors_and_gradients.py"
    file.write_text("def slop(f, x, h):\n    return x\n")
    assert (
        "ch01_tensors_and_gradients.py has no function `slope`"
        in failures(file)["test_slope_of_a_cube_by_hand"]
    )


def of_axes(of, axes):
    """The lines of `normalize` with statistics of other pictures, over other axes."""
    by = f"{of}.mean({axes}, keepdims=True)) / {of}.std({axes}, keepdims=True)"
    return f"return tuple(((images - {by}).astype(np.float32) for images in (train, test))"


def axes_of_batch_norm(axes):
    """The middle of `batch_norm`, and the same with other axes."""
    lines = "(0, 2, 3), keepdims=True)  # (1, c, 1, 1)\n    variance = x.var((0, 2, 3)"
    return lines, lines.replace("(0, 2, 3)", axes)


NORMALIZE = "return tuple(((images - mean) / std).astype(np.float32) for images in (train, test))"

# A file's chapter, what is changed in its answers, and part of the hint that some check gives.
WRONG = [
    ("ch01", "f(x - h)) / (2 * h)", "f(x)) / h", "the slope to the right only"),
    ("ch01", "(f(x + h) - f(x - h)) / (2 * h)", "(f(x) - f(x - h)) / h", "to the left only"),
    ("ch01", "/ (2 * h)", "/ h", "the two points are 2 h apart"),
    ("ch01", "/ (2 * h)", "/ 2 * h", "write `/ (2 * h)`"),
    (
        "ch01",
        "    return (f(x + h)",
        "    h = 2.0\n    return (f(x + h)",
        "does it use h, and only h",
    ),
    ("ch01", "+= gradients[result]", "= gradients[result]", "value 0 is used twice: add"),
    ("ch01", "reversed(steps)", "steps", "walk from the last step to the first"),
    ("ch01", "[steps[-1][0]] = 1.0", "[steps[-1][0]] = 0.0", "derivative by itself is 1"),
    ("ch01", "+= gradients[result] * local", "+= local", "multiply each slope by the derivative"),
    ("ch01", "gradient * a / c, gradient * b / c", "a / c, b / c", "multiply by the gradient"),
    ("ch01", "* a / c, gradient * b", "* b / c, gradient * a", "in each other's place"),
    ("ch01", "gradient * a / c, gradient * b / c", "gradient * a, gradient * b", "divide by c"),
    ("ch01", "* a / c, gradient * b", "* a * 2 / c, gradient * b * 2", "twice too much"),
    ("ch01", "* a / c, gradient * b / c", "* a / c / 2, gradient * b / c / 2", "half of it"),
    ("ch01", "gradient * b / c", "gradient * b.data / c", "wrong when differentiated once more"),
    ("ch02", "@ error / len(y), 2 * error.mean()", "@ error, 2 * error.sum()", "divide by n"),
    ("ch02", "2 * x.T @ error / len(y), 2 *", "x.T @ error / len(y),", "has a factor 2"),
    ("ch02", "x @ w + b - y", "y - x @ w - b", "the sign is that of y"),
    ("ch02", "x.T @ error", "x @ error", "x @ error sums over the features"),
    ("ch02", "labels]).mean()", "labels]).sum()", "the sum over the examples, not the mean"),
    ("ch02", "return (log_sums - ", "return -(log_sums - ", "minus the logarithm"),
    ("ch02", "np.exp(shifted).sum(1)", "np.exp(shifted).sum(0)", "use axis 1"),
    ("ch02", "scores - scores.max(1, keepdims=True)", "scores", "take each row's largest score"),
    ("ch02", "    optimizer.step()\n", "", "it did not move"),
    ("ch02", "    optimizer.zero_grad()\n", "", "call optimizer.zero_grad() first"),
    (
        "ch02",
        "    optimizer.step()",
        "    optimizer.zero_grad()\n    optimizer.step()",
        "the order is",
    ),
    ("ch02", "return value.item()", "return value", "return loss.item()"),
    ("ch02", "return value.item()", "return loss(model(inputs), labels).item()", "after the step"),
    ("ch03", "range(0, count, size)", "range(0, count - size + 1, size)", "do not drop it"),
    (
        "ch03",
        "order[start : start + size]",
        "rng.permutation(count)[:size]",
        "no index comes twice",
    ),
    (
        "ch03",
        "order[start : start + size]",
        "rng.integers(0, count, min(size, count - start))",
        "cut it up",
    ),
    ("ch03", "rng.permutation(count)", "np.arange(count)", "should be a new one"),
    (
        "ch03",
        "rng.permutation(count)",
        "np.random.default_rng().permutation(count)",
        "the same seed",
    ),
    (
        "ch03",
        "m, s = mean / (1 - b1**step), square / (1 - b2**step)",
        "m, s = mean, square",
        "without the bias",
    ),
    ("ch03", "value - lr", "value + lr", "that went uphill"),
    (
        "ch03",
        "    m, s = mean",
        "    m, s = mean, square = mean",
        "as they are, without the correction",
    ),
    ("ch03", "gradient**2", "gradient", "the square of the gradient"),
    ("ch03", "np.sqrt(s)", "s", "divide by the square root"),
    ("ch03", "(np.sqrt(s) + eps)", "np.sqrt(s + eps)", "eps stands outside the root"),
    ("ch03", " + eps", "", "where is eps?"),
    ("ch03", "1 - b1**step", "1 - b1", "right at first, then not"),
    ("ch03", "== patience", "== patience - 1", "an epoch too early"),
    ("ch03", "== patience", "> patience", "an epoch too late"),
    ("ch03", "return best, epoch\n", "pass\n", "it should have stopped after epoch 3"),
    (
        "ch03",
        "losses[best]",
        "losses[max(epoch - 1, 0)]",
        "the lowest so far, not with the one before",
    ),
    ("ch03", "if loss < ", "if loss <= ", "an equal loss is not lower"),
    ("ch04", "images.shape[1] * size * size", "size * size", "windows of 3 channels"),
    ("ch04", "size * size)", "size * size).T", "transposed: a window should be a row"),
    ("ch04", "(0, 2, 3, 1, 4, 5)", "(0, 2, 3, 1, 5, 4)", "row by row, not column by column"),
    ("ch04", "(0, 2, 3, 1, 4, 5)", "(0, 3, 2, 1, 4, 5)", "along the picture's rows first"),
    (
        "ch04",
        "[:, :, ::stride, ::stride]",
        "[:, :, :-1:stride, :-1:stride]",
        "one window is missing",
    ),
    ("ch04", "::stride, ::stride", "::size, ::size", "do not overlap"),
    ("ch04", ", ::stride, ::stride", "", "the stride is not used"),
    (
        "ch04",
        "::stride, ::stride",
        ": -(-windows.shape[2] // stride), : -(-windows.shape[3] // stride)",
        "not at (i, j)",
    ),
    ("ch04", "(0, 2, 3, 1, 4, 5)", "(0, 2, 3, 4, 5, 1)", "is an axis out of order?"),
    ("ch04", "weight[j] * shifted", "weight[k - 1 - j] * shifted", "this used the flipped kernel"),
    (
        "ch04",
        "sum(weight[j] * shifted[j] for j in range(k))",
        "weight[k - 1] * shifted[k - 1]",
        "from every j: add",
    ),
    ("ch04", "out] * gradient).sum", "out]).sum", "is missing in dweight"),
    (
        "ch04",
        "minidl.pad(gradient,",
        "minidl.pad(minidl.ones(gradient.shape).to(dtype=x.dtype),",
        "is missing in dx",
    ),
    ("ch04", "for j in range(k)])", "for j in reversed(range(k))])", "dweight is flipped"),
    ("ch04", "* gradient).sum()", "* gradient)[0].sum()", "is it summed over all rows"),
    ("ch04", "seen += (size - 1) * step", "seen += size", "but k - 1"),
    ("ch04", "seen, step = 1, 1", "seen, step = 0, 1", "start there"),
    ("ch04", "seen += (size - 1) * step", "seen *= size", "they do not multiply"),
    ("ch04", "        step *= stride\n", "", "the strides are not used"),
    (
        "ch04",
        "seen += (size - 1) * step\n        step *= stride",
        "step *= stride\n        seen += (size - 1) * step",
        "only for the layers behind it",
    ),
    ("ch04", "step *= stride", "step += stride - 1", "the product of all strides"),
    ("ch05", "row * image.shape[1] + column", "inside", "the place within the window"),
    ("ch05", "row * image.shape[1] + column", "column * image.shape[0] + row", "are exchanged"),
    (
        "ch05",
        "return windows.max((2, 3)), row * image.shape[1] + column",
        "return row * image.shape[1] + column, windows.max((2, 3))",
        "the place comes second",
    ),
    (
        "ch05",
        "[::stride, ::stride]",
        "[: -(-image.shape[0] // stride), : image.shape[1] // stride]",
        "not at (i, j)",
    ),
    ("ch05", "row * image.shape[1]", "row * image.shape[0]", "w is the image's width"),
    ("ch05", "windows.max((2, 3))", "windows.max((2, 3), initial=0)", "cannot start from 0"),
    (
        "ch05",
        "windows.reshape(out_h, out_w, -1).argmax(2)",
        "size**2 - 1 - windows.reshape(out_h, out_w, -1)[..., ::-1].argmax(2)",
        "the first wins",
    ),
    ("ch05", ", columns, 1) * won)", ", columns, 1) * (won * 0 + 1))", "multiply by `won`"),
    (
        "ch05",
        ", columns, 1) * won)",
        ", columns, 1) * (won * 0 + 1) / size**2)",
        "as average pooling does",
    ),
    (
        "ch05",
        "(gradient.reshape(n, c, rows, 1, columns, 1) * won)",
        "(gradient.sum() * 0 + won)",
        "now multiply by the gradient",
    ),
    ("ch05", ", columns, 1) * won)", ", columns, 1) * won / size**2)", "divides nothing"),
    (
        "ch05",
        "rows, 1, columns, 1) * won",
        "rows, columns, 1, 1) * won",
        "give the gradient axes of length 1",
    ),
    (
        "ch05",
        "1) * won)",
        "1) * (windows == windows.max((3, 5), keepdims=True)))",
        "one wins; use `won`",
    ),
    ("ch05", "/ sums(np.ones_like(image))", "/ size**2", "1 in a corner, not 4"),
    ("ch05", " / sums(np.ones_like(image))", "", "the sum, not the mean"),
    ("ch05", "np.pad(array, padding)", "array", "the padding is missing"),
    ("ch05", "sums(image) / sums", "sums(image) // sums", "have fractions"),
    ("ch06", NORMALIZE, of_axes("train", (0, 1, 2, 3)), "leave axis 1 out"),
    ("ch06", NORMALIZE, of_axes("train", 0), "not over pictures alone"),
    ("ch06", NORMALIZE, of_axes("images", (2, 3)), "each picture was normalised by itself"),
    ("ch06", "/ std)", "/ std**2)", "not by its square"),
    ("ch06", " / std)", ")", "still that of the pixels"),
    ("ch06", "((images - mean) / std)", "(images / 255)", "are not normalised yet"),
    ("ch06", ".astype(np.float32)", "", "twice the memory"),
    ("ch06", NORMALIZE, of_axes("images", (0, 2, 3)), "the test pictures' own mean"),
    (
        "ch06",
        "mean = train",
        "train_ = train\n    train = np.concatenate([train, test])\n    mean = train",
        "were used for mean",
    ),
    (
        "ch06",
        "Conv2d(3, 8, 3, padding=1)",
        "Conv2d(3, 16, 3, padding=1)",
        "each with weight and bias",
    ),
    (
        "ch06",
        "nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()",
        "nn.Conv2d(8, 16, 3, padding=1)",
        "behind each convolution",
    ),
    ("ch06", "16 * (height // 4) * (width // 4)", "1024", "two pools halve height and width"),
    ("ch06", "8, 3, padding=1)", "8, 3)", "two pools halve"),
    (
        "ch06",
        "(width // 4), classes)",
        "(width // 4), classes), nn.ReLU()",
        "none stands behind the scores",
    ),
    (
        "ch06",
        "(width // 4), classes)",
        "(width // 4), classes), nn.Softmax(1)",
        "takes the scores as they are",
    ),
    (
        "ch06",
        "np.add.at(matrix, (labels, guesses), 1)",
        "matrix[labels, guesses] += 1",
        "adds 1 once",
    ),
    ("ch06", "(labels, guesses)", "(guesses, labels)", "rows are the truth"),
    ("ch06", "matrix.sum(1)", "matrix.sum(0)", "that is precision"),
    (
        "ch06",
        "return matrix,",
        "return matrix / matrix.sum(1, keepdims=True),",
        "count pictures, not parts",
    ),
    ("ch06", "matrix.sum(1)", "matrix.sum()", "not out of all pictures"),
    ("ch07", "(kernel + 1)", "kernel", "each kernel has one bias"),
    ("ch07", "in_channels * size * size", "size * size", "a kernel sees all input channels"),
    ("ch07", "out_h * out_w *", "height * width *", "have only 3 x 3 outputs"),
    ("ch07", "out_channels * kernel\n", "out_channels * (kernel + 1)\n", "biases are not counted"),
    ("ch07", "out_w * out_channels * kernel", "out_w * kernel", "for one output channel"),
    (
        "ch07",
        "stride + 1, (width - size) // stride + 1",
        "1 + 1, (width - size) // 1 + 1",
        "the stride changes",
    ),
    (
        "ch07",
        "return np.mean(values), np.std(values, ddof=1)",
        "return np.mean(values), np.std(values)",
        "n - 1: NumPy",
    ),
    ("ch07", "np.std(values, ddof=1)", "np.var(values, ddof=1)", "take its square root"),
    ("ch07", "ddof=1)", "ddof=1) / len(values) ** 0.5", "the error of the mean"),
    ("ch07", "abs(mean_a - mean_b)", "mean_a - mean_b", "whichever net comes first"),
    ("ch07", "spread_a + spread_b", "spread_a", "both spreads count"),
    ("ch07", "np.subtract(a, b)", "np.subtract(b, a)", "a - b, not b - a"),
    (
        "ch07",
        "mean_and_spread(np.subtract(a, b))",
        "np.mean(a) - np.mean(b), (np.var(a, ddof=1) + np.var(b, ddof=1)) ** 0.5",
        "adds up the spreads",
    ),
    (
        "ch07",
        "mean_and_spread(np.subtract(a, b))",
        "np.subtract(mean_and_spread(a), mean_and_spread(b))",
        "difference of the two spreads",
    ),
    (
        "ch07",
        "mean_and_spread(np.subtract(a, b))",
        "mean_and_spread(np.sort(a) - np.sort(b))",
        "sort neither",
    ),
    (
        "ch08",
        "[numbers.get(word, 1) for word in words] + padding)[:width]",
        "padding + [numbers.get(word, 1) for word in words])[-width:]",
        "not before it",
    ),
    ("ch08", "get(word, 1)", "get(word, 0)", "an unknown word is number 1"),
    (
        "ch08",
        "numbers.get(word, 1) for word in words",
        "numbers[word] for word in words if word in numbers",
        "keeps its place",
    ),
    ("ch08", "numbers.get(word, 1)", "numbers[word]", "numbers.get(word, 1)"),
    ("ch08", "max(shortest, *(", "min(9, *(", "nothing is cut off"),
    ("ch08", "[0] * width", "[1] * width", "padding is number 0"),
    (
        "ch08",
        "max(shortest, *(len(words) for words in sentences))",
        "max(len(words) for words in sentences)",
        "needs 4",
    ),
    ("ch08", "np.array(rows)", "np.array(rows, float)", "by whole numbers"),
    ("ch08", "np.where(real[:, None], features, -np.inf)", "features", "padding won"),
    ("ch08", "-np.inf", "0.0", "0 beats responses below 0"),
    ("ch08", ".max(2)", ".max(1)", "not over filters"),
    ("ch08", "lengths[:, None]", "lengths[:, None] - 1", "one place too few"),
    ("ch08", "start : start + size", "start : start + 1", "the first word alone"),
    ("ch08", "start + size]", "start + size + 1]", "one word too many"),
    ("ch08", "start : start + size", "max(start - size + 1, 0) : start + 1", "not up to t"),
    ("ch08", "argmax", "argmin", "argmax, not argmin"),
    (
        "ch08",
        '" ".join(words[start : start + size])',
        "words[start : start + size]",
        "a string for each filter",
    ),
    ("ch08", "argmax(1)", "argmax(0)", "axis 1"),
    ("ch08", "start + size]", "start + 2]", "here 3"),
    ("ch09", *axes_of_batch_norm("0"), "a mean for each pixel"),
    ("ch09", *axes_of_batch_norm("(2, 3)"), "that is instance norm"),
    ("ch09", *axes_of_batch_norm("(1, 2, 3)"), "that is layer norm"),
    ("ch09", *axes_of_batch_norm("(0, 1, 2, 3)"), "leave axis 1 out"),
    ("ch09", "variance + eps", "variance", "eps is missing"),
    ("ch09", "np.sqrt(variance + eps)", "(np.sqrt(variance) + eps)", "added to the variance"),
    ("ch09", "np.sqrt(variance + eps)", "(variance + eps)", "square root of the variance"),
    (
        "ch09",
        "x.var((0, 2, 3), keepdims=True)",
        "x.var((0, 2, 3), keepdims=True, ddof=1)",
        "no ddof",
    ),
    (
        "ch09",
        "gamma[:, None, None] * normalized + beta[:, None, None]",
        "gamma * normalized + beta",
        "along the width",
    ),
    (
        "ch09",
        "gamma[:, None, None] * normalized + beta[:, None, None]",
        "normalized",
        "gamma and beta are missing",
    ),
    (
        "ch09",
        "normalized + beta[:, None, None]",
        "(normalized + beta[:, None, None])",
        "not multiplied by gamma",
    ),
    ("ch09", " + shortcut(x)", "", "the shortcut is missing"),
    (
        "ch09",
        "relu(second(relu(first(x))) + shortcut(x))",
        "relu(second(relu(first(x)))) + shortcut(x)",
        "before the last ReLU",
    ),
    (
        "ch09",
        "relu(second(relu(first(x))) + shortcut(x))",
        "second(relu(first(x))) + shortcut(x)",
        "behind the sum",
    ),
    ("ch09", "relu(first(x))", "first(x)", "between first and second"),
    ("ch09", "second(relu(first(x)))", "first(relu(second(x)))", "first comes first"),
    ("ch09", "shortcut(x))", "x)", "use shortcut(x)"),
    ("ch09", "shortcut(x))", "shortcut(x).data)", "not their arrays"),
    ("ch09", "(step + 1) / warmup", "step / warmup", "would learn nothing"),
    ("ch09", "(step + 1) / warmup", "(step + 1) / (warmup + 1)", "has the peak itself"),
    ("ch09", "if step < warmup", "warmup = 0\n    if step < warmup", "there is no warm-up"),
    ("ch09", "(step - warmup) / (steps - warmup)", "step / steps", "from the end of the warm-up"),
    ("ch09", "peak / 2 * (1 + math.cos(math.pi * t))", "peak * (1 - t)", "a straight line"),
    ("ch09", "math.pi * t", "2 * math.pi * t", "is pi long"),
    (
        "ch09",
        "peak / 2 * (1 + math.cos(math.pi * t))",
        "peak * math.cos(math.pi / 2 * t)",
        "a quarter of a cosine",
    ),
    ("ch09", "(steps - warmup)", "(steps - warmup - 1)", "one behind the last"),
    (
        "ch10",
        "requires_grad_(name.startswith",
        "requires_grad_(not name.startswith",
        "the wrong way round",
    ),
    (
        "ch10",
        'requires_grad_(name.startswith(f"{head}."))',
        "requires_grad_(name.startswith(head))",
        "begins with `fc` as well",
    ),
    (
        "ch10",
        '        parameter.requires_grad_(name.startswith(f"{head}."))\n',
        "",
        "nothing is frozen",
    ),
    (
        "ch10",
        "parameter.requires_grad_(name",
        "parameter.requires_grad_(parameter.requires_grad and name",
        "was frozen before",
    ),
    (
        "ch10",
        'requires_grad_(name.startswith(f"{head}."))',
        'requires_grad_(name == f"{head}.weight")',
        "belongs to the head",
    ),
    ("ch10", "parameter.size * parameter", "parameter", "count their numbers"),
    (
        "ch10",
        "parameter.size * parameter",
        "parameter.size * (parameter.ndim - 1) * parameter",
        "the bias learns too",
    ),
    ("ch10", "* parameter.requires_grad", "* (not parameter.requires_grad)", "the frozen ones"),
    ("ch10", " * parameter.requires_grad", "", "all numbers of the network"),
    ("ch10", "if n in own and array.shape == own[n].shape", "if n in own", "with the same shape"),
    (
        "ch10",
        "load_state_dict(fitting, strict=False)",
        "load_state_dict(given)",
        "first leave out the rest",
    ),
    ("ch10", "    model.load_state_dict(fitting, strict=False)\n", "", "first leave out the rest"),
    ("ch10", "if name not in fitting", "if name not in given", "is left as well"),
    (
        "ch10",
        "name for name in own if name not in fitting",
        "name for name in own if name in given and name not in fitting",
        "missing in the state",
    ),
    (
        "ch10",
        "if name not in fitting]",
        "if name not in fitting] + [n for n in given if n not in own]",
        "the model's own names",
    ),
    (
        "ch10",
        "[name for name in own if name not in fitting]",
        "sorted(set(own) - set(fitting))",
        "in the order of",
    ),
    ("ch10", '.removeprefix("module.")', "", "every name begins with"),
    ("ch10", "removeprefix", "lstrip", "takes off letters"),
    ("ch10", "groups[name.startswith", "groups[not name.startswith", "the two are exchanged"),
    (
        "ch10",
        '[name.startswith(f"{head}.")]',
        "[name.startswith(head)]",
        "begins with `fc` as well",
    ),
    ("ch10", "return groups", "return groups[::-1]", "first the rest, then the head"),
    (
        "ch10",
        "return groups",
        "return [dict(g, params=[*model.parameters()]) for g in groups]",
        "each parameter in one group",
    ),
    ("ch11", "mean().item()", "sum().item()", "that is the sum"),
    ("ch11", "mean().item()", "mean()", "read it with .item()"),
    (
        "ch11",
        "minidl.stack(losses).mean().item()",
        "sum(loss.item() for loss in losses) / len(losses)",
        "each loss was read by itself",
    ),
    (
        "ch11",
        "minidl.stack(losses).mean()",
        "minidl.Tensor([loss.item() for loss in losses]).mean()",
        "the mean alone will do",
    ),
    ("ch11", "        wait()\n", "", "how long asking takes"),
    ("ch11", "    work()\n    wait()\n    times", "    times", "compiles kernels"),
    ("ch11", "    wait()\n    times", "    times", "was still running"),
    ("ch11", "1000 * ", "", "in seconds"),
    ("ch11", "median(", "mean(", "that is the mean"),
    ("ch11", "statistics.median(", "min(", "that is the fastest"),
    ("ch11", "statistics.median(", "sum(", "all times together"),
    (
        "ch11",
        "    work()\n    wait()\n    times = []\n    for _ in range(repeats)",
        "    times = []\n    for _ in range(repeats + 1)",
        "leave it out",
    ),
    (
        "ch11",
        "math.floor(launches * launch_us / (cpu_us - gpu_us)) + 1",
        "math.floor(launches * launch_us / (cpu_us - gpu_us))",
        "round up",
    ),
    (
        "ch11",
        "math.floor(launches * launch_us / (cpu_us - gpu_us)) + 1",
        "launches * launch_us / (cpu_us - gpu_us)",
        "a whole number",
    ),
    (
        "ch11",
        "math.floor(launches * launch_us / (cpu_us - gpu_us)) + 1",
        "math.ceil(launches * launch_us / (cpu_us - gpu_us))",
        "on both: not less",
    ),
    ("ch11", "if gpu_us >= cpu_us", "if gpu_us > cpu_us", "never makes up"),
]


@pytest.mark.parametrize(("chapter", "old", "new", "hint"), WRONG)
def test_a_usual_mistake_gets_its_hint(chapter, old, new, hint, tmp_path):
    path = BY_CHAPTER[chapter]
    right = path.read_text(encoding="utf-8")
    assert right.count(old) == 1
    file = tmp_path / path.name
    file.write_text(right.replace(old, new), encoding="utf-8")
    said = [text for text in failures(file).values() if text]
    assert said, "no check fails"
    assert any(hint in " ".join(text.split()) for text in said), "\n".join(said)
