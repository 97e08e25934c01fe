"""Exercises for chapter 12: GPUs.

Install the `test` extra first: `pip install -e '.[test]'`, the README's second command. Fill in the
functions, which need no GPU; then

    python -m pytest chapters/exercises -k ch12

tells you which answers are right and which are not there yet. Difficulty: 1 takes a few lines, 2
some thought, 3 pencil and paper. The answers, with the reasons, are in
chapters/solutions/ch12_gpu.py, with those to the two questions at the end.
"""


def mean_loss(losses):
    """Return the mean of some losses, tensors of one value each, as a plain number.

    They may be on a GPU that is still computing them. Reading a value (`.item()`, `.numpy()`,
    `float(...)`) waits for the device: do it once, however many losses there are.

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


def milliseconds(work, wait, clock, repeats):
    """Return how long a device takes for some work: the median of `repeats` times, in ms.

    `work()` only queues the work and returns immediately; the first call takes longer, because
    kernels are compiled. `wait()` returns when the device has done all the queued work. `clock()`
    returns the time in seconds. So: work once, untimed, and wait; then, for each time, start the
    clock, work, wait, stop the clock.

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


def break_even(launches, launch_us, gpu_us, cpu_us):
    """Return the smallest batch for which a GPU takes less time than a CPU.

    A simple model of a training step on n images, in microseconds:

        CPU:  cpu_us n        GPU:  launches launch_us + gpu_us n

    n is an integer >= 1. If no batch is large enough, return math.inf.

    By hand: 100 launches of 5 µs, and 2 µs instead of 100 µs per image: 500 / 98 is 5.1, so 6
    images.

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


# Predict, then run: 100 launches of 5 µs, 2 µs per image instead of 100: 6 images. Which lowers
# that more: launches that take half the time, or a GPU that is twice as fast per image?
#
# Change this and explain: On a GPU, give the chapter's network a quarter of its kernels, then four
# times as many. From which batch size on does the time per step grow with the batch, and where does
# recording the step (`capture`) still help? Then allow TF32 (`minidl.set_tf32(True)`), and move
# pixels as bytes: what changes?
