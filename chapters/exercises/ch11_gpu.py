"""Exercises for chapter 11: a GPU.

Fill in the functions, which need no GPU; then

    python -m pytest chapters/exercises -k ch11

says what is right and what is not yet. Answers: chapters/solutions/ch11_gpu.py.
"""


def mean_loss(losses):
    """Return the mean of some losses, tensors of one number each, as a plain number.

    They may lie on a GPU that is still computing them. Reading a number (`.item()`, `.numpy()`,
    `float(...)`) waits for the device: do it once, however many losses there are.
    """
    raise NotImplementedError


def milliseconds(work, wait, clock, repeats):
    """Return how long a device takes for some work: the median of `repeats` times, in ms.

    `work()` only asks the device for it, and returns at once; the first time takes longer, as
    kernels are compiled. `wait()` returns when the device has done all it was asked for.
    `clock()` gives the time in seconds. So: work once, untimed, and wait; then, for each time,
    start the clock, work, wait, stop the clock.
    """
    raise NotImplementedError


def break_even(launches, launch_us, gpu_us, cpu_us):
    """Return the smallest batch for which a GPU takes less time than a CPU.

    A simple model of a training step on n pictures, in microseconds:

        CPU:  cpu_us n        GPU:  launches launch_us + gpu_us n

    n is a whole number from 1. If no batch is large enough, return math.inf.

    By hand: 100 launches of 5 µs, 2 µs a picture against 100: 500 / 98 is 5.1, so 6 pictures.
    """
    raise NotImplementedError
