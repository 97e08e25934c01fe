"""Compare training steps of two processes with one thread and one process with two threads.

    python -m tests.benchmarks.ranks --rounds 7
    python -m tests.benchmarks.ranks --sweep --only W1 M20

The networks and whole batches are those of `tests.benchmarks.step`. All processes live through the
whole run and take turns of several steps, so that a drift of the machine's speed affects all alike.
While it is not their turn, they wait for a message, which uses no processor time. Ratios are taken
within rounds. If PyTorch is installed, it runs too: with two threads, and with
`DistributedDataParallel` over gloo. `--sweep` compares bucket sizes for gradients instead. M20 has
20 million parameters, among them 71 matrices of 1 MB or more.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import numpy as np

from minidl.distributed.mpi import mpiexec

from .contest import processor
from .step import (
    CONTESTS,
    Work,
    minidl_residual,
    minidl_work,
    pictures,
    torch_residual,
    torch_steps,
    torch_work,
)
from .step import NETWORKS as SMALL

KEYS = ("W1", "W2", "R20", "W3")
TEAMS = {"1x2": 1, "2x1": 2, "torch": 1, "ddp": 2}  # processes, with 2 threads in all
WARM_UP = 2  # untimed steps at the start of a turn, in which caches fill
SECONDS = 120.0  # that a team may take to start, or for one turn

BUCKETS = [2**power for power in range(16, 25, 2)]  # bytes

Step = Callable[[], float]
Costs = Callable[[], dict[str, float]]


def deep_network(nn: Any) -> Any:
    """Build M20 of the layers of `nn`: minidl's, or PyTorch's."""
    layers = [nn.Flatten(), nn.Linear(3072, 512)]
    for _ in range(70):
        layers += [nn.ReLU(), nn.Linear(512, 512)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(512, 10))


NETWORKS = {**SMALL, "M20": (deep_network, pictures, "SGD", {"lr": 0.01, "momentum": 0.9})}
TITLES = {**{key: CONTESTS[key].title for key in KEYS}, "M20": "M20 20 M parameters, SGD"}

# A process -------------------------------------------------------------------------------------


def own_team(key: str, bucket: int | None) -> tuple[int, Step, Costs]:
    """Return this process's rank, and functions for its step and its communication so far."""
    import minidl
    from minidl import distributed
    from minidl import functional as F

    world = distributed.world()
    minidl.set_num_threads(2 // world.size)
    work: Work = minidl_residual(key) if key == "R20" else minidl_work(*NETWORKS[key])
    model, optimiser, inputs, labels = work
    sizes = {} if bucket is None else {"bucket": bucket}
    parallel = distributed.DataParallel(model, world, **sizes)
    inputs, labels = (np.array_split(a, world.size)[world.rank] for a in (inputs, labels))

    def step() -> float:
        loss = world.mean(F.cross_entropy(model(minidl.Tensor(inputs)), labels), len(labels))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.item())

    return world.rank, step, lambda: {"waited": parallel.waited, "sent": parallel.sent}


def torch_team(key: str, rank: int, size: int, meeting: str) -> tuple[int, Step, Costs]:
    """Return the same for PyTorch; `meeting` is a file through which the ranks connect."""
    import torch

    torch.set_num_threads(2 // size)
    work: Work = torch_residual(key) if key == "R20" else torch_work(*NETWORKS[key])
    model, optimiser, *arrays = work
    inputs, labels = (np.array_split(array, size)[rank] for array in arrays)
    if size > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=size
        )
        # The fastest options: each rank's batch norm statistics are its own, as minidl's are here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # old versions lack the new name
            model = torch.nn.parallel.DistributedDataParallel(
                model, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    return rank, torch_steps((model, optimiser, inputs, labels)), dict


def serve(team: str, key: str, rank: int, port: int, meeting: str, bucket: int | None) -> None:
    """Run as many steps as each message asks for, and reply with the median time of one."""
    is_own = team in ("1x2", "2x1")
    size = TEAMS[team]
    made = own_team(key, bucket) if is_own else torch_team(key, rank, size, meeting)
    rank, step, costs = made
    with (
        socket.create_connection(("127.0.0.1", port)) as connection,
        connection.makefile("rw", encoding="utf-8") as stream,
    ):
        connection.settimeout(None)
        print(json.dumps(rank), file=stream, flush=True)
        for line in stream:
            losses = [step() for _ in range(WARM_UP)]
            before, times = costs(), []
            for _ in range(count := int(line)):
                started = time.perf_counter()
                losses.append(step())
                times.append(1000 * (time.perf_counter() - started))
            found = {name: (value - before[name]) / count for name, value in costs().items()}
            answer = {"ms": statistics.median(times), "losses": losses, **found}
            print(json.dumps(answer), file=stream, flush=True)


# The coordinating process -------------------------------------------------------------------------


class Team:
    """Processes that train one network together.

    Args:
        name: one of `TEAMS`.
        key: the network.
        folder: where the processes may find each other.
        bucket: bytes of gradients that minidl sums together; None for its own choice.
    """

    def __init__(self, name: str, key: str, folder: str, bucket: int | None = None) -> None:
        self.name, self.size = name, TEAMS[name]
        self.streams: list[TextIO] = []
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(SECONDS)
            self.processes = self._started(key, folder, server.getsockname()[1], bucket)
            found = []
            for _ in range(self.size):
                connection, _ = server.accept()
                connection.settimeout(SECONDS)
                found.append((connection, connection.makefile("rw", encoding="utf-8")))
        found.sort(key=lambda pair: json.loads(pair[1].readline()))
        self.connections, self.streams = zip(*found, strict=True)

    def _started(
        self, key: str, folder: str, port: int, bucket: int | None
    ) -> list[subprocess.Popen[bytes]]:
        threads = str(2 // self.size)
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        environment |= {"MKL_NUM_THREADS": threads}
        if sys.platform == "linux":
            environment |= {"GLOO_SOCKET_IFNAME": "lo"}
        program = [sys.executable, "-m", "tests.benchmarks.ranks", "--only", key]
        program += ["--bucket", str(bucket)] if bucket else []
        meeting = os.path.join(folder, f"{key}-{port}")
        starts = [[*program, "--serve", self.name, str(r), str(port), meeting] for r in range(2)]
        if self.name == "2x1":
            starts = [[str(mpiexec()), "-n", "2", *starts[0]]]
        return [
            subprocess.Popen(start, env=environment, stdin=subprocess.DEVNULL)
            for start in starts[: self.size]
        ]

    def turn(self, steps: int) -> dict[str, Any]:
        """Let the team take steps; return the slowest rank's time per step and other figures."""
        for stream in self.streams:
            print(steps, file=stream, flush=True)
        answers = [json.loads(stream.readline()) for stream in self.streams]
        slowest: dict[str, Any] = max(answers, key=lambda answer: answer["ms"])
        return slowest | {"losses": np.mean([answer["losses"] for answer in answers], 0)}

    def end(self) -> None:
        for stream, connection in zip(self.streams, self.connections, strict=True):
            stream.close()
            connection.close()
        for process in self.processes:
            process.wait(SECONDS)


@contextlib.contextmanager
def teams(names: list[str], key: str, bucket: int | None) -> Iterator[list[Team]]:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        found = []
        for name in names:
            found.append(Team(name, key, folder, bucket))
            stack.callback(found[-1].end)
        yield found


def measure(names: list[str], args: argparse.Namespace, key: str) -> dict[str, list[dict]]:
    """Return each team's figures, round by round."""
    with teams(names, key, args.bucket) as found:
        first = {team.name: team.turn(3) for team in found}
        check(first)
        steps = {n: max(3, round(1000 * args.seconds / f["ms"])) for n, f in first.items()}
        rounds: dict[str, list[dict]] = {name: [] for name in names}
        for number in range(args.rounds):
            for team in found if number % 2 == 0 else reversed(found):
                rounds[team.name].append(team.turn(steps[team.name]))
    return rounds


def check(first: dict[str, dict]) -> None:
    """Raise unless equal work had equal losses: a fast but wrong step must not win."""
    for own, peer in (("1x2", "torch"), ("2x1", "ddp")):
        if own in first and peer in first:
            a, b = first[own]["losses"], first[peer]["losses"]
            if not np.allclose(a, b, rtol=2e-3, atol=2e-3):
                raise RuntimeError(f"losses differ: {own} {a}, {peer} {b}")


def sweep(args: argparse.Namespace, key: str) -> None:
    """Print a step's time for each size of the buckets, and its ratio to the smallest size's."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        found = []
        for bucket in BUCKETS:
            found.append(Team("2x1", key, folder, bucket))
            stack.callback(found[-1].end)
        steps = max(3, round(1000 * args.seconds / found[0].turn(3)["ms"]))
        rounds = []
        for number in range(args.rounds):
            order = found if number % 2 == 0 else found[::-1]
            turns = [team.turn(steps) for team in order]
            rounds.append(turns if number % 2 == 0 else turns[::-1])
    for bucket, turns in zip(BUCKETS, zip(*rounds, strict=True), strict=True):
        ratio = statistics.median(
            turn["ms"] / r[0]["ms"] for turn, r in zip(turns, rounds, strict=True)
        )
        ms, waited = (statistics.median(turn[what] for turn in turns) for what in ("ms", "waited"))
        print(
            f"{TITLES[key]:32}{bucket // 1024:7} kB{ms:9.1f} ms{ratio:9.2f}{1000 * waited:9.2f} ms"
        )


def row(rounds: dict[str, list[dict]]) -> str:
    def ratio(a: str, b: str) -> str:
        if a not in rounds or b not in rounds:
            return f"{'-':>9}"
        both = zip(rounds[a], rounds[b], strict=True)
        return f"{statistics.median(x['ms'] / y['ms'] for x, y in both):9.2f}"

    def middle(name: str, what: str) -> float:
        return statistics.median(r[what] for r in rounds[name])

    text = "".join(f"{middle(n, 'ms'):9.1f}" if n in rounds else f"{'-':>9}" for n in TEAMS)
    text += ratio("2x1", "1x2") + ratio("2x1", "ddp") + ratio("1x2", "torch")
    if "2x1" in rounds:
        text += f"{1000 * middle('2x1', 'waited'):9.2f}{middle('2x1', 'sent') / 1e6:9.3f}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=list(TITLES), default=list(KEYS))
    parser.add_argument("--teams", nargs="*", choices=list(TEAMS), default=list(TEAMS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a turn takes")
    parser.add_argument("--bucket", type=int, help="bytes of gradients that are summed together")
    parser.add_argument("--sweep", action="store_true", help="compare sizes of buckets")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        team, rank, port, meeting = args.serve
        serve(team, args.only[0], int(rank), int(port), meeting, args.bucket)
        return
    if args.sweep:
        print(f"{processor()}, NumPy {np.__version__}: bucket, ms per step, ratio, waited")
        for key in args.only:
            sweep(args, key)
        return
    names = args.teams
    if importlib.util.find_spec("torch") is None and {"torch", "ddp"} & set(names):
        names = [name for name in names if name not in ("torch", "ddp")]
        print("PyTorch is not installed, so it is left out")
    if mpiexec() is None or importlib.util.find_spec("mpi4py") is None:
        parser.error("MPI is not installed: pip install -e '.[mpi]'")
    print(f"{processor()}, NumPy {np.__version__}, float32")
    print(f"medians of {args.rounds} rounds in turn; ms per step; 2x1 is 2 processes x 1 thread\n")
    width = max(len(TITLES[key]) for key in args.only) + 1
    print(f"{'':{width}}" + "".join(f"{name:>9}" for name in TEAMS), end="")
    print(f"{'2x1/1x2':>9}{'2x1/ddp':>9}{'1x2/pt':>9}{'wait ms':>9}{'sent MB':>9}")
    for key in args.only:
        rounds = measure(names, args, key)
        print(f"{TITLES[key]:{width}}{row(rounds)}", flush=True)


if __name__ == "__main__":
    main()
