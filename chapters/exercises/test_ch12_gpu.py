"""Checks of the exercises for chapter 12."""

import math
from unittest import mock

from minidl import Tensor


def test_mean_loss_returns_the_mean_as_a_number(exercise):
    losses = tuple(Tensor(value) for value in (1.0, 2.0, 6.0))
    exercise.expect("mean_loss", losses, expected=3.0, hints={"that is the sum": 9.0})
    usual = "a tensor stays on the device: read it with .item()"
    got = exercise.call("mean_loss", losses)
    exercise.compare("the type of what mean_loss returns", type(got), float, usual=usual)


def test_mean_loss_waits_once(exercise):
    reads = []

    def counted(method):
        def read(self):
            reads.append(method.__name__)
            return method(self)

        return read

    losses = tuple(Tensor(float(value)) for value in range(100))
    with (
        mock.patch.object(Tensor, "item", counted(Tensor.item)),
        mock.patch.object(Tensor, "numpy", counted(Tensor.numpy)),
    ):
        exercise.call("mean_loss", losses)
    hints = {
        "each loss was read: compute the mean on the device, then read only that": 100,
        "each loss and the mean were read: read only the mean": 101,
    }
    usual = "minidl.stack makes one tensor from many; its mean is computed on the device"
    exercise.compare("how often mean_loss of 100 losses waits", len(reads), 1, hints, usual)


class Device:
    """A device that needs 3 ms for its work, and 100 ms more the first time."""

    def __init__(self):
        self.now = self.idle_from = 0.0
        self.first = 0.1

    def work(self):
        """Queue the work."""
        self.now += 0.0001
        self.idle_from = max(self.now, self.idle_from) + 0.003 + self.first
        self.first = 0.0

    def wait(self):
        """Wait until all the queued work is done."""
        self.now = max(self.now, self.idle_from)

    def clock(self):
        """Return the time in seconds."""
        return self.now


MISTAKES = {
    "that is how long queueing takes: wait before stopping the clock": 0.1,
    "the first call compiles kernels: work once before starting the clock": 103.1,
    "the untimed work was still running: wait for it before starting the clock": 106.0,
    "that is in seconds": 0.0031,
}


def test_milliseconds_waits_before_it_starts_and_stops_the_clock(exercise):
    device = Device()
    arguments = device.work, device.wait, device.clock, 1
    usual = "work, wait; then clock, work, wait, clock"
    exercise.expect("milliseconds", *arguments, expected=3.1, hints=MISTAKES, usual=usual)


def test_milliseconds_takes_the_median(exercise):
    device = Device()
    times = iter([0, 0, 0.002, 0.02, 0.001])

    def work():
        device.work()
        device.idle_from += next(times, 0)

    hints = {
        "that is the mean: one slow time, caused by another program, raises it": 3.1 + 23 / 4,
        "that is the fastest": 3.1,
        "that is the sum of all times: take their median": 4 * 3.1 + 23,
        "the untimed work does not count: leave out its time": 5.1,
    }
    arguments = work, device.wait, device.clock, 4
    exercise.expect("milliseconds", *arguments, expected=3.1 + 1.5, hints=MISTAKES | hints)


def test_break_even_by_hand(exercise):
    hints = {
        "5 images take 510 µs on the GPU and 500 on the CPU: round up": 5,
        "a batch has a whole number of images": 500 / 98,
    }
    exercise.expect("break_even", 100, 5.0, 2.0, 100.0, expected=6, hints=hints)
    hints = {"the GPU's time per image counts too: 500 / (100 - 60)": 6}
    exercise.expect("break_even", 100, 5.0, 60.0, 100.0, expected=13, hints=hints)


def test_break_even_is_where_the_gpu_takes_less_time_not_equal_time(exercise):
    hints = {"5 images take 500 µs on both: not less": 5}
    exercise.expect("break_even", 100, 5.0, 0.0, 100.0, expected=6, hints=hints)
    exercise.expect("break_even", 0, 5.0, 1.0, 2.0, expected=1, hints={"n counts from 1": 0})


def test_break_even_never(exercise):
    usual = "a GPU that is not faster per image never makes up for its launches: math.inf"
    for cpu_us in (2.0, 1.0):
        exercise.expect("break_even", 100, 5.0, 2.0, cpu_us, expected=math.inf, usual=usual)
