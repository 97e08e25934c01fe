"""Answers to the exercises for chapter 12."""

import math
import statistics

import minidl


def mean_loss(losses):
    return minidl.stack(losses).mean().item()


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


def break_even(launches, launch_us, gpu_us, cpu_us):
    if gpu_us >= cpu_us:
        return math.inf
    return math.floor(launches * launch_us / (cpu_us - gpu_us)) + 1
