"""Answers to the exercises for chapter 12."""

import math
import statistics

import minidl


# Why: stack and mean only queue work; item waits for it, once. Reading each loss would stop the
# queue a hundred times, and the device would be idle while Python prepares the next step.
def mean_loss(losses):
    return minidl.stack(losses).mean().item()


# Why: Wait before the clock starts, or the time contains earlier work; wait before it stops, or it
# contains the queueing only. The first call, which compiles kernels, is not timed. The median
# ignores a single slow time; the mean does not.
def milliseconds(work, wait, clock, repeats):
    work()
    wait()
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        wait()
        times.append(clock() - start)
    return 1000 * statistics.median(times)


# Why: Set both times equal and solve for n; the next integer is the first that is strictly better,
# hence floor + 1 and not ceil. A GPU that is not faster per image never makes up for its launches.
def break_even(launches, launch_us, gpu_us, cpu_us):
    if gpu_us >= cpu_us:
        return math.inf
    return math.floor(launches * launch_us / (cpu_us - gpu_us)) + 1


# Predict, then run. The launches: 3 images. The faster GPU changes nothing: 500 / 99 is 5.05, so
# still 6. Small batches wait for launches, not for arithmetic; that is why recording a step as one
# launch helps them most.
#
# Change this and explain. Measure it; this is what to expect. Work per image changes with the
# product of input and output channels, about 16-fold each way, and the number of launches stays the
# same. So with a quarter of the kernels launches dominate up to much larger batches, and recording
# helps there; with four times as many, only in the smallest. TF32 speeds up large matrix products,
# but keeps 10 bits of each factor: differences of about 1e-3, too much for tests that compare
# digits, hence off by default. Bytes are a quarter of floats: the time to move images falls, the
# time to launch, compute and read a loss does not.
