"""Blocks, such as `no_grad`, in threads, asyncio tasks and generators; models shared by threads."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import importlib
import inspect
import itertools
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minidl
from minidl import Tensor, backends, handover, nn
from minidl.autograd import is_recording, no_grad, set_recording
from minidl.backends.cpu import threads
from minidl.data import DataLoader
from minidl.functional.loss import cross_entropy, noted
from minidl.inspect import grad_cam, saliency, summary
from minidl.nn.modes import evaluating
from minidl.training import evaluate, predict


def together(works: list[Callable[[], Any]]) -> list[Any]:
    """Run all works at the same time, each in a thread; return their results, or raise an error."""
    start, found = threading.Barrier(len(works)), {}

    def run(place: int) -> None:
        start.wait()
        try:
            found[place] = works[place]()
        except Exception as error:
            found[place] = error

    runners = [threading.Thread(target=run, args=(place,)) for place in range(len(works))]
    for thread in runners:
        thread.start()
    for thread in runners:
        thread.join()
    for result in found.values():
        if isinstance(result, Exception):
            raise result
    return [found[place] for place in range(len(works))]


@pytest.fixture(autouse=True)
def often_switched() -> Iterator[None]:
    """Let threads interrupt each other a hundred times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


# Recording: threads, tasks, generators


def suspended() -> Iterator[int]:
    """Stop twice inside a block."""
    with no_grad():
        yield 1
        yield 2


@pytest.mark.parametrize("order", list(itertools.product((0, 1), repeat=5)))
def test_two_generators_may_end_in_any_order(order):
    generators, steps = [suspended(), suspended()], [0, 0]
    for which in order:
        next(generators[which], None)
        steps[which] += 1
        assert is_recording() == all(done in (0, 3, 4, 5) for done in steps)
    for generator in generators:
        generator.close()
    assert is_recording()


def test_a_block_that_ends_below_another_leaves_the_other_s_value():
    with contextlib.ExitStack() as outer:
        outer.enter_context(no_grad())
        with contextlib.ExitStack() as inner:
            inner.enter_context(set_recording(True))
            outer.close()
            assert is_recording()
            with no_grad():
                inner.close()
                assert not is_recording()
    assert is_recording()


def test_a_generator_may_end_in_another_thread_or_task():
    for end in (lambda g: g.close(), lambda g: list(g)):
        generator = suspended()
        next(generator)
        with set_recording(True):
            (seen,) = together([lambda e=end, g=generator: (e(g), is_recording())[1]])
        assert seen
        assert is_recording()

        async def main(end: Any = end) -> bool:
            generator = suspended()
            next(generator)
            await asyncio.to_thread(end, generator)
            return is_recording()

        assert asyncio.run(main())


def test_a_block_that_is_never_left_ends_with_its_object():
    block = no_grad()
    block.__enter__()
    assert not is_recording()
    del block
    assert is_recording()
    stack = contextlib.ExitStack()
    stack.enter_context(no_grad())
    del stack
    assert is_recording()


def test_one_object_serves_threads_that_switch_all_the_time():
    block, interval = no_grad(), sys.getswitchinterval()

    def work() -> bool:
        for _ in range(500):
            with block, block:
                assert not is_recording()
            assert is_recording()
        return True

    sys.setswitchinterval(1e-6)
    try:
        assert all(together([work] * 8))
    finally:
        sys.setswitchinterval(interval)


def test_one_object_serves_nested_blocks_and_threads():
    block = no_grad()

    def work() -> bool:
        with block:
            with block:
                assert not is_recording()
            inside = is_recording()
        return not inside and is_recording()

    assert all(together([work] * 8))
    assert is_recording()


def test_tasks_do_not_see_each_other_s_blocks():
    async def task(wait: float) -> None:
        assert is_recording()
        with no_grad():
            await asyncio.sleep(wait)
            assert not is_recording()
        assert is_recording()
        await asyncio.sleep(wait)
        assert is_recording()

    async def main() -> None:
        await asyncio.gather(*[task(0.001 * n) for n in (3, 1, 4, 1, 5, 2, 6, 5)])

    asyncio.run(main())
    assert is_recording()


def test_a_task_keeps_what_it_started_with():
    async def state() -> bool:
        await asyncio.sleep(0)
        return is_recording()

    async def main() -> tuple[bool, bool]:
        with no_grad():
            task, thread = asyncio.create_task(state()), asyncio.to_thread(is_recording)
            inside = await thread
        return await task, inside

    assert asyncio.run(main()) == (False, False)


def test_ctrl_c_at_any_instruction_of_a_block_leaves_recording_on():
    def block() -> None:
        with no_grad():
            pass

    def interrupted(after: int) -> bool:
        """Run the block; interrupt it after some instructions, and return whether it was."""
        left, before = after, sys.gettrace()

        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal left
            frame.f_trace_opcodes = True
            left -= event == "opcode"
            if left == 0 and event == "opcode":
                raise KeyboardInterrupt
            return trace

        sys._getframe().f_trace_opcodes = True  # or Python 3.12 reports no instructions
        sys.settrace(trace)
        try:
            block()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return left <= 0  # in `__del__`, whose errors Python ignores

    count = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", lambda _: None)
        while interrupted(count):
            assert is_recording(), f"interrupted after {count} instructions"
            count += 1
    assert count > 50


# Decorators


def test_a_decorated_generator_is_covered_only_while_it_runs():
    @no_grad()
    def steps(n: int) -> Any:
        """Count."""
        got = []
        try:
            for i in range(n):
                try:
                    got.append((yield i, is_recording()))
                except ValueError:
                    got.append(is_recording())
        finally:
            got.append(is_recording())
        return got

    assert (steps.__name__, steps.__doc__) == ("steps", "Count.")
    assert inspect.isgeneratorfunction(steps)
    generator = steps(3)
    assert next(generator) == (0, False)
    assert is_recording()
    assert generator.send("a") == (1, False)
    assert generator.throw(ValueError()) == (2, False)
    with pytest.raises(StopIteration) as end:
        next(generator)
    assert end.value.value == ["a", False, None, False]
    assert is_recording()
    generator = steps(3)
    next(generator)
    generator.close()
    with pytest.raises(StopIteration):
        next(generator)
    with contextlib.contextmanager(steps)(1) as first:  # such as a fixture
        assert first == (0, False)
        assert is_recording()


def test_a_decorated_coroutine_and_asynchronous_generator_are_covered_only_while_they_run():
    @no_grad()
    async def both() -> list[bool]:
        seen = [is_recording()]
        await asyncio.sleep(0)
        return [*seen, is_recording()]

    @no_grad()
    async def each() -> Any:
        try:
            while True:
                try:
                    yield is_recording()
                    await asyncio.sleep(0)
                except ValueError:
                    yield "thrown", is_recording()
        finally:
            closed.append(is_recording())

    closed: list[bool] = []

    async def main() -> None:
        assert await both() == [False, False]
        task = asyncio.create_task(both())
        while not task.done():
            assert is_recording()
            await asyncio.sleep(0)
        steps = each()
        async for seen in steps:
            assert (seen, is_recording()) == (False, True)
            break
        assert await steps.athrow(ValueError()) == ("thrown", False)
        await steps.aclose()

    assert inspect.iscoroutinefunction(both)
    asyncio.run(main())
    assert closed == [False]
    stepped = both()  # by a loop that gives tasks no context
    stepped.send(None)
    assert is_recording()
    stepped.close()


def test_decorated_functions_and_methods_run_in_a_block_and_classes_are_refused():
    class Counter:
        @no_grad()
        def method(self, value: int) -> tuple[int, bool]:
            return value, is_recording()

        @staticmethod
        @no_grad()
        def static() -> bool:
            return is_recording()

    assert Counter().method(3) == (3, False)
    assert not Counter.static()
    assert is_recording()
    for wrong in (Counter, staticmethod(is_recording), classmethod(is_recording), 3):
        with pytest.raises(TypeError, match="expected a function; decorate the methods"):
            no_grad()(wrong)


# Other values that hold in a block


def test_observers_anomalies_and_notes_belong_to_their_thread():
    layer, x = nn.Linear(3, 2), minidl.ones((4, 3))
    ready, done = threading.Event(), threading.Event()
    seen: list[Any] = []

    def watch() -> None:
        with (
            nn.observe(lambda *_: seen.append(threading.current_thread())),
            minidl.detect_anomaly(),
            noted() as found,
        ):
            ready.set()
            done.wait()
            layer(x)
            seen.append(len(found))

    thread = threading.Thread(target=watch)
    thread.start()
    ready.wait()
    layer(x)
    assert np.isnan((x * np.nan).numpy()).all()
    cross_entropy(layer(x), np.zeros(4, int))
    done.set()
    thread.join()
    assert seen == [thread, 0]


def test_observers_see_modules_in_order_and_end_in_any_order():
    seen: list[str] = []

    def observing(name: str) -> Iterator[None]:
        with nn.observe(lambda *_: seen.append(name)):
            yield

    first, second = observing("a"), observing("b")
    next(first)
    next(second)
    nn.ReLU()(minidl.ones(1))
    first.close()
    nn.ReLU()(minidl.ones(1))
    second.close()
    nn.ReLU()(minidl.ones(1))
    assert seen == ["a", "b", "b"]


# Evaluation


def network() -> nn.Sequential:
    minidl.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Flatten(), nn.Linear(64, 3)),
    )


IMAGES = np.random.default_rng(0).standard_normal((24, 3, 6, 6)).astype(np.float32)
LABELS = np.arange(24) % 3


def test_evaluating_reads_false_here_only_and_stores_nothing():
    net, other = network(), nn.Dropout()
    net[3].eval()
    before = [dict(vars(part)) for part in net.modules()]
    with evaluating(net):
        assert not any(part.training for part in net.modules())
        assert other.training
        assert [dict(vars(part)) for part in net.modules()] == before
        assert together([lambda: net.training]) == [True]
        assert copy.deepcopy(net).training
        assert pickle.loads(pickle.dumps(net)).training
        with evaluating(net[0]), evaluating(other):
            assert [other.training, net.training, net[0].training] == [False] * 3
        assert not net[0].training
    assert [part.training for part in net] == [True] * 3 + [False] + [True] * 2


def test_train_and_eval_inside_the_block_set_the_mode():
    net = network()
    with evaluating(net):
        net[3].train()
        assert net[3].training
        net[0].eval()
        assert not net.training
    assert [part.training for part in net] == [False] + [True] * 5


def test_generators_that_evaluate_end_in_any_order():
    net = network()

    def evaluated() -> Iterator[None]:
        with evaluating(net):
            yield

    first, second = evaluated(), evaluated()
    next(first)
    next(second)
    first.close()
    assert not net[3].training
    second.close()
    assert net[3].training


def test_modules_of_the_user_s_own_see_the_mode():
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if self.training else x

    net = nn.Sequential(nn.Flatten(), Noisy())
    x = np.ones((2, 3), np.float32)
    assert (predict(net, DataLoader(x, LABELS[:2])) == 1).all()
    assert (net(Tensor(x)).numpy() == 2).all()
    with pytest.raises(TypeError, match=r"Silent.training: got a class attribute"):
        type("Silent", (nn.Module,), {"training": False})


def inference() -> dict[str, Callable[[nn.Sequential, int], Any]]:
    """Return all that evaluates a model; they get the number of the thread."""

    def loader(i: int) -> DataLoader:
        return DataLoader(IMAGES[i:], LABELS[i:], batch_size=5)

    def images(i: int) -> Tensor:
        return Tensor(IMAGES[i : i + 2])

    return {
        "predict": lambda net, i: predict(net, loader(i)),
        "evaluate": lambda net, i: evaluate(net, cross_entropy, loader(i)).loss,
        "grad_cam": lambda net, i: grad_cam(net, net[0], images(i)),
        "saliency": lambda net, i: saliency(net, images(i)),
        "summary": lambda net, i: str(summary(net, (3, 6, 6))),
    }


@pytest.mark.parametrize("name", inference())
def test_eight_threads_evaluate_one_model_in_training(name):
    work, net = inference()[name], network()
    wanted = [work(copy.deepcopy(net).eval(), i) for i in range(8)]
    before = pickle.dumps(net)
    found = together([lambda i=i: [work(net, i) for _ in range(4)] for i in range(8)])
    for results, right in zip(found, wanted, strict=True):
        for result in results:
            np.testing.assert_array_equal(result, right)
    assert pickle.dumps(net) == before

    async def main() -> list[Any]:
        return await asyncio.gather(*[asyncio.to_thread(work, net, i) for i in range(8)])

    for result, right in zip(asyncio.run(main()), wanted, strict=True):
        np.testing.assert_array_equal(result, right)
    assert pickle.dumps(net) == before


# Backward


def test_a_hook_may_run_another_backward():
    x, inner = Tensor([2.0, 3.0], requires_grad=True), Tensor([1.0, 5.0], requires_grad=True)
    y = x * x
    y.register_hook(lambda gradient: (inner * inner * gradient).sum().backward())
    y.sum().backward()
    np.testing.assert_array_equal(inner.grad.numpy(), [2, 10])
    np.testing.assert_array_equal(x.grad.numpy(), [4, 6])


def test_a_hook_records_if_its_caller_does_and_its_result_only_with_create_graph():
    x, seen = Tensor([2.0, 3.0], requires_grad=True), []

    def hook(gradient: Tensor) -> Tensor:
        seen.append(is_recording())
        return gradient * x

    def start() -> Tensor:
        y = x * x
        y.register_hook(hook)
        return y.sum()

    outputs = [start(), start()]
    outputs[0].backward()
    assert not x.grad.requires_grad
    with no_grad():
        outputs[1].backward()
    (slope,) = minidl.grad(start(), x)
    assert not slope.requires_grad
    (slope,) = minidl.grad(start(), x, create_graph=True)
    assert slope.requires_grad
    assert seen == [True, False, True, True]


def test_threads_that_share_a_leaf_lose_no_gradient():
    weight = Tensor(np.zeros(3000, np.float32), requires_grad=True)

    def work() -> None:
        for _ in range(50):
            (weight * 1).sum().backward()

    together([work] * 8)
    assert (weight.grad.numpy() == 400).all()


# Memory that runs out


class Allocations:
    """Counts NumPy's new arrays; the one with a given number raises MemoryError."""

    def __init__(self, patch: pytest.MonkeyPatch, failing: int) -> None:
        self.left = failing
        for name in ("empty", "empty_like", "zeros", "ones", "concatenate", "matmul", "maximum"):
            patch.setattr(np, name, self._counted(getattr(np, name)))

    def _counted(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise MemoryError("no memory left")
            return make(*args, **kwargs)

        return counted


class Residual(nn.Module):
    """A block whose batch norm, sum and ReLU run in one pass."""

    def __init__(self) -> None:
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return minidl.functional.relu(self.norm(self.conv(x)) + x)


def trained() -> tuple[nn.Module, Any]:
    net = nn.Sequential(Residual(), *network())
    return net, minidl.optim.Adam(net.parameters(), lr=0.01)


def step(net: nn.Module, adam: Any) -> None:
    loss = cross_entropy(net(Tensor(IMAGES)), LABELS)
    adam.zero_grad()
    loss.backward()
    adam.step()


def bits(net: nn.Module, adam: Any) -> list[bytes]:
    states = [net.state_dict(), *adam.state_dict()["state"].values()]
    return [np.asarray(value).tobytes() for state in states for _, value in sorted(state.items())]


def test_after_memory_ran_out_a_step_has_the_same_bits():
    net, adam = trained()
    step(net, adam)
    first, stream = net.state_dict(), minidl.random.generator().bit_generator.state
    start = adam.state_dict()
    step(net, adam)
    wanted, count, failed = bits(net, adam), 0, True
    while failed:
        count += 3
        net.load_state_dict(first)
        adam.load_state_dict(start)
        minidl.random.generator().bit_generator.state = stream
        with pytest.MonkeyPatch.context() as patch:
            Allocations(patch, count)
            try:
                step(net, adam)
                failed = False
            except MemoryError:
                assert is_recording()
                assert all(part.training for part in net.modules())
                assert nn.module.may_fuse(Tensor(IMAGES))
                assert nn.module.pending_results(Tensor(IMAGES)) is None
        net.load_state_dict(first)
        adam.load_state_dict(start)
        minidl.random.generator().bit_generator.state = stream
        step(net, adam)
        assert bits(net, adam) == wanted, f"after array {count} failed"
    assert count > 30


@pytest.mark.parametrize("name", ["Adam", "SGD", "RMSprop"])
def test_an_optimiser_without_memory_for_its_state_changes_nothing(name):
    options = {"momentum": 0.9, "dampening": 0.5} if name == "SGD" else {}

    def start() -> tuple[list[Tensor], Any]:
        weights = [nn.Parameter(np.full(4, i + 1.0)) for i in range(3)]
        for weight in weights:
            (weight * weight).sum().backward()
        return weights, getattr(minidl.optim, name)(weights, lr=0.1, **options)

    whole, rule = start()
    rule.step()
    rule.step()
    for failing in (1, 2, 3):
        weights, rule = start()
        with pytest.MonkeyPatch.context() as patch:
            Allocations(patch, failing)
            with pytest.raises(MemoryError):
                rule.step()
        np.testing.assert_array_equal([w.numpy()[0] for w in weights], [1, 2, 3])
        assert rule.state_dict()["state"] == {}
        rule.load_state_dict(rule.state_dict())
        rule.step()
        rule.step()
        for weight, wanted in zip(weights, whole, strict=True):
            np.testing.assert_array_equal(weight.numpy(), wanted.numpy())


def test_batch_norm_without_memory_moves_both_statistics_or_none():
    layer, x = nn.BatchNorm1d(3), Tensor(IMAGES.reshape(-1, 3))
    after = copy.deepcopy(layer)
    after(x)
    before, wanted = layer.state_dict(), after.state_dict()
    for failing in range(1, 60):
        tried = copy.deepcopy(layer)
        with pytest.MonkeyPatch.context() as patch:
            Allocations(patch, failing)
            with contextlib.suppress(MemoryError):
                tried(x)
        found = tried.state_dict()
        names = ("running_mean", "running_var")
        moved = [np.array_equal(found[name], wanted[name]) for name in names]
        kept = [np.array_equal(found[name], before[name]) for name in names]
        assert all(moved) or all(kept)


# What all threads share


@pytest.fixture
def lends(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The reference counts of Python 3.14, where a call lends its arguments without counting."""
    count = sys.getrefcount

    def lent(thing: Any) -> int:
        caller = sys._getframe(2)  # of `_holders`
        variables, code = caller.f_locals, caller.f_code
        return count(thing) - any(
            variables[n] is thing for n in code.co_varnames[: code.co_argcount]
        )

    with monkeypatch.context() as patch:
        patch.setattr(sys, "getrefcount", lent)
        yield importlib.reload(handover)
    importlib.reload(handover)


@pytest.mark.parametrize("python", ["this one", "lends"])
def test_a_gradient_is_handed_over_only_if_nothing_else_holds_it(python, request):
    here = handover if python == "this one" else request.getfixturevalue(python)
    found: list[bool] = []

    def made(others: list[Any]) -> Iterator[Tensor]:
        gradient = minidl.ones(3) * 2
        others[:] = [{"none": None, "tensor": gradient, "array": gradient.array}[others[0]]]
        yield gradient

    for other in ("none", "tensor", "array"):
        others = [other]
        for gradient in made(others):
            found.append(here.is_free(gradient))
    assert found == [True, False, False]


def test_threads_that_come_first_at_once_make_one_backend_and_one_limit(monkeypatch):
    def slow(make: Callable[..., Any]) -> Callable[..., Any]:
        @functools.cache
        def made(*args: Any) -> Any:
            time.sleep(0.05)
            return make(*args)

        return made

    monkeypatch.setattr(threads, "_blas", slow(threads._Blas))
    assert len({id(limit) for limit in together([threads.blas] * 4)}) == 1
    monkeypatch.setattr(backends, "_cpu_backend", slow(backends._cpu_backend.__wrapped__))
    before = backends.backend_for("cpu")
    try:
        together([lambda: minidl.set_kernels("exact")] * 4)
        assert backends._cpu_backend("exact") is backends.backend_for("cpu")
        assert backends._cpu_backend.cache_info().misses == 1
    finally:
        backends.register(np.ndarray, before)


def test_a_loader_s_thread_has_its_user_s_context():
    def halved(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        seen.append(is_recording())
        return x / np.float32(0)

    for prefetch in (0, 1):
        seen: list[bool] = []
        loader = DataLoader(IMAGES, LABELS, transform=halved, prefetch=prefetch)
        with np.errstate(all="ignore"), no_grad():
            assert len(list(loader)) == 1
        assert seen == [False]
        with np.errstate(all="raise"), pytest.raises(FloatingPointError):
            next(iter(loader))


class Parts(list[slice]):
    """Slices whose iterator is as unsafe in threads as a list's is in free-threaded Python."""

    def __iter__(self) -> Iterator[slice]:
        parts, place = self, 0

        class Unsafe:
            def __iter__(self) -> Any:
                return self

            def __next__(self) -> slice:
                nonlocal place
                if place >= len(parts):
                    raise StopIteration
                part = parts[place]
                time.sleep(0.001)
                place += 1
                return part

        return Unsafe()


def test_each_slice_is_worked_on_once_although_iterators_are_unsafe_in_threads():
    before = threads.get_num_threads()
    minidl.set_num_threads(4)
    try:
        done: list[int] = []

        def work(part: slice) -> None:
            time.sleep(0.001)
            done.append(part.start)

        threads.share(Parts(slice(i, i + 1) for i in range(30)), work)
        assert sorted(done) == list(range(30))
    finally:
        minidl.set_num_threads(before)


def test_ctrl_c_while_work_is_shared_leaves_this_thread_free_to_share(monkeypatch):
    class Queue:
        def put(self, _: Any) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(threads, "_jobs", lambda: (Queue(), 1))
    with pytest.raises(KeyboardInterrupt):
        threads.share([slice(0, 1), slice(1, 2)], lambda _: None)
    assert not threads.current.is_worker


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_forked_while_threads_add_gradients_can_add_its_own():
    weight = Tensor(np.zeros(300_000, np.float32), requires_grad=True)
    is_done = False

    def add() -> None:
        while not is_done:
            (weight * 1).sum().backward()

    helpers = [threading.Thread(target=add) for _ in range(2)]
    for helper in helpers:
        helper.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                with contextlib.suppress(BaseException):
                    before = weight.grad.numpy()[0] if weight.grad is not None else 0
                    (weight * 1).sum().backward()
                    os._exit(int(weight.grad.numpy()[0] != before + 1))
                os._exit(2)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        is_done = True
        for helper in helpers:
            helper.join()
