"""Exercises for chapter 6: kinds of pooling.

Install the `test` extra first: `pip install -e '.[test]'`, the README's second command. Fill in the
functions; then

    python -m pytest chapters/exercises -k ch06

tells you which answers are right and which are not there yet. Difficulty: 1 takes a few lines, 2
some thought, 3 pencil and paper. The answers, with the reasons, are in
chapters/solutions/ch06_kinds_of_pooling.py, with those to the two questions at the end.
"""

from minidl.tensor import record


def gem_pool(x, p, size):
    """Return the generalised mean (GeM) of each window, as an operation that has a gradient.

        out = (mean of x^p over the window)^(1/p)

    p = 1 is the mean, and as p grows, the result approaches the maximum. x is a tensor
    (n, c, h, w) of values > 0, with h and w multiples of size; windows are size x size and do not
    overlap. p is a tensor (1,): it is learned. The output, (n, c, h / size, w / size), is given;
    write `backward`. It gets the gradient with respect to the output, a tensor of the output's
    shape, and returns a pair of tensors: the gradients with respect to x and p. Multiply the
    incoming gradient by

        d out / dx  =  x^(p-1) out^(1-p) / size²
        d out / dp  =  out / p (mean of x^p log x / mean of x^p  -  log out)

    All windows share p, so its gradient is the sum over them. Compute with the tensors x and p, not
    with `means`, which is an array, so that the result can be differentiated again: they have
    `reshape`, `mean(axes, keepdims=True)`, `sum`, `log()` and `**`.

    By hand: the window [[1, 5], [5, 7]] with p = 2 has a mean square of 25 and the output 5, where
    the mean is 4.5. For gradient 2, dx is [[0.1, 0.5], [0.5, 0.7]], and dp is 0.744.

    Difficulty: 3 of 3.
    """
    n, c, h, w = x.shape
    rows, columns = h // size, w // size
    means = (x.array**p.array).reshape(n, c, rows, size, columns, size).mean((3, 5))

    def backward(gradient):
        raise NotImplementedError

    return record("gem_pool", means ** (1 / p.array), (x, p), backward)


def stochastic_pool(images, size, uniform=None):
    """Return one random pixel of each window, or without random numbers the expected value.

    In NumPy: images are (n, c, h, w), values >= 0, with h and w multiples of size; windows are
    size x size and do not overlap. The result is (n, c, h / size, w / size). A pixel is chosen with
    probability x / (sum of its window): the larger, the more often.

    In training, `uniform` has one number 0 <= u < 1 for each window, in the result's shape. Go
    through the window's pixels row by row and add up their probabilities: the first pixel at which
    the sum is > u is chosen. In evaluation, `uniform` is None: return the sum of probability times
    value. A window of zeros gives 0.

    By hand: the window [[1, 3], [0, 4]] has the probabilities 1/8, 3/8, 0 and 4/8, which add up to
    1/8, 4/8, 4/8 and 1. So u = 0.3 chooses 3, and u = 0.5 chooses 4. In evaluation the result is
    1/8 + 9/8 + 16/8 = 3.25.

    Difficulty: 3 of 3.
    """
    raise NotImplementedError


def blur_pool(images, stride):
    """Return images that were blurred and then subsampled: pooling without aliasing.

    In NumPy: images are (n, c, h, w). Blur along the width, then along the height, with the
    binomial kernel:

        out[i]  =  (x[i - 1] + 2 x[i] + x[i + 1]) / 4

    At the edges, mirror the image without repeating its outermost pixel: x[-1] is x[1]. So the
    blurred image has the size of the image; return its pixels (i * stride, j * stride).

    By hand: if all rows are 4, 8, 0, 0, they become 6, 5, 2, 0, and with stride 2 6, 2. Stripes
    4, 0, 4, 0 become 2, 2, wherever they start; subsampled alone, they would become 4, 4 or 0, 0.

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


# Predict, then run: What does GeM return for the window [[1, 2], [3, 4]] with p = 1, 3, 10 and 100?
# And as p approaches 0?
#
# Change this and explain: Where the chapter compares the kinds, raise GeM's p from 3 to 30. Which
# kind does it approach, and why does it treat salt worse as it treats a lone bright pixel better?
