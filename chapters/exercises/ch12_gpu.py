"""Exercises for chapter 12: GPUs.

Fill in the functions, which need no GPU; then

    python -m pytest chapters/exercises -k ch12

tells you which answers are right and which are not there yet. The answers are
in chapters/solutions/ch12_gpu.py.
"""


def mean_loss(losses):
    """Return the mean of some losses, tensors of one value each, as a plain number.

    They may be on a GPU that is still computing them. Reading a value (`.item()`, `.numpy()`,
    `float(...)`) waits for the device: do it once, however many losses there are.
    """
    raise NotImplementedError


def milliseconds(work, wait, clock, repeats):
    """Return how long a device takes for some work: the median of `repeats` times, in ms.

    `work()` only queues the work and returns immediately; the first call takes longer, because
    kernels are compiled. `wait()` returns when the device has done all the queued work. `clock()`
    returns the time in seconds. So: work once, untimed, and wait; then, for each time, start the
    clock, work, wait, stop the clock.
    """
    raise NotImplementedError


def break_even(launches, launch_us, gpu_us, cpu_us):
    """Return the smallest batch for which a GPU takes less time than a CPU.

    A simple model of a training step on n images, in microseconds:

        CPU:  cpu_us n        GPU:  launches launch_us + gpu_us n

    n is an integer >= 1. If no batch is large enough, return math.inf.

    By hand: 100 launches of 5 µs, and 2 µs instead of 100 µs per image: 500 / 98 is 5.1, so 6
    images.
    """
    raise NotImplementedError
