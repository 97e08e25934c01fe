"""Shared by all tests: devices, seeds, and checks of global state."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable

import hypothesis
import matplotlib
import numpy as np
import pytest

import minidl
from minidl import autograd, zeros
from minidl.backends import backend_for

from .helpers import guarded as guarded  # registers the device "guarded"

matplotlib.use("Agg")

# A slow machine must not make a test fail, and CI must not fail by chance where a developer's
# machine passes: examples are the same everywhere, and none has a deadline. The `device` fixture
# is the same object for all examples of a test.
hypothesis.settings.register_profile(
    "minidl",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("minidl")

SHOWN: pytest.StashKey[list[str]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--show-gradients",
        action="store_true",
        help="print each operation's input, output, incoming and resulting gradient side by side",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SHOWN] = []


def _left_out(config: pytest.Config) -> str | None:
    """Return why there are no tests on `"cuda"`, unless `-m` names them: then they say so."""
    return None if "gpu" in config.option.markexpr else _why_no_cuda()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what draws examples on some and, where slow tests are asked for, on all; run what takes a
    `device` on each, and on `"cuda"` where there is one.

    Without a GPU, a test that is skipped costs nearly as much as one that runs: there are thousands
    that would be.
    """
    given = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if hypothesis.is_hypothesis_test(metafunc.function):
        metafunc.parametrize(
            "examples", ["some", pytest.param("all", marks=pytest.mark.slow)], indirect=True
        )
    named = [x.split(",") if isinstance(x, str) else x for x in given]
    own = "device" in vars(metafunc.module) or any("device" in names for names in named)
    if "device" in metafunc.fixturenames and not own:
        cuda = [] if _left_out(metafunc.config) else [pytest.param("cuda", marks=pytest.mark.gpu)]
        metafunc.parametrize("device", ["cpu", "guarded", *cuda], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _left_out(config):
        on_gpu = [item for item in items if item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=on_gpu)
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]


def pytest_collection_finish() -> None:
    """Spare the garbage collector what lives until the end: it would visit all tests each time."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the drawings after all tests have run, so that progress output does not garble them."""
    for text in terminalreporter.config.stash[SHOWN]:
        title, _, drawing = text.partition("\n")
        terminalreporter.write_line("")
        terminalreporter.write_line(title, bold=True)
        terminalreporter.write_line(drawing)
    if reason := _left_out(terminalreporter.config):
        terminalreporter.write_line(f"nothing ran on a GPU: {reason}")


@pytest.fixture
def show_gradients(request: pytest.FixtureRequest) -> Callable[..., None]:
    """With `--show-gradients`, print what `draw(*arguments)` returns; else do nothing."""

    def show(draw: Callable[..., str], *arguments: object) -> None:
        if request.config.getoption("--show-gradients") and (text := draw(*arguments)):
            request.config.stash[SHOWN].append(text)

    return show


@functools.cache
def _why_no_cuda() -> str | None:
    try:
        backend_for("cuda")
    except RuntimeError as error:
        return str(error)
    return None


@pytest.fixture
def cuda() -> str:
    """The device `"cuda"`; skips, with the reason, if CuPy is absent or broken."""
    if reason := _why_no_cuda():
        pytest.skip(reason)
    return "cuda"


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """Each device in turn; with `-m gpu`, `"cuda"` is skipped if CuPy is absent or broken."""
    if request.param == "cuda" and (reason := _why_no_cuda()):
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture(autouse=True)
def examples(request: pytest.FixtureRequest):
    """Let a test of drawn examples draw a fifth of them, at least 10, unless it is to draw all."""
    few = getattr(request, "param", "all") == "some"
    if few:
        test = request.function
        asked = test._hypothesis_internal_use_settings
        fewer = min(asked.max_examples, max(10, asked.max_examples // 5))
        test._hypothesis_internal_use_settings = hypothesis.settings(asked, max_examples=fewer)
    yield
    if few:
        test._hypothesis_internal_use_settings = asked


@pytest.fixture(autouse=True)
def global_state():
    """Start every test from one seed; check that it leaves recording and NumPy unchanged."""
    minidl.manual_seed(0)
    float_errors = np.geterr()
    numpy_stream = np.random.get_state()  # noqa: NPY002 - minidl must not touch NumPy's own stream
    yield
    assert autograd.is_recording(), "recording was left off"
    assert np.geterr() == float_errors, "NumPy's floating-point error handling was changed"
    zeros((), device="guarded").item()  # raises any pending error of that device
    after = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(numpy_stream, after, strict=True)), (
        "numpy.random's global stream was used; draw from minidl.random.generator(rng)"
    )


@pytest.fixture
def no_collector():
    """Turn the garbage collector off: a reference cycle would keep GPU memory alive."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
