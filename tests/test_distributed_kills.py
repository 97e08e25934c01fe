"""Ranks killed at random moments: no run hangs, no checkpoint is lost, other numbers resume.

MINIDL_KILLS=20 python -m pytest -m slow tests/test_distributed_kills.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest

from minidl.training import load_checkpoint

from .helpers.ranks import command, environment, needs_mpi

HANGS = 10.0  # s after a kill

PROGRAM = """
import json, os, sys, time
from pathlib import Path
import numpy as np
import minidl
from minidl import data, distributed, nn, optim, training
from minidl import functional as F

folder = Path(sys.argv[1])
world = distributed.world(timeout=60)
Path(folder, f"pid{world.rank}").write_text(str(os.getpid()))
rng = minidl.manual_seed(3)
x, y = rng.normal(size=(45, 6)), rng.integers(0, 3, 45)
model = nn.Sequential(
    nn.Linear(6, 8), nn.BatchNorm1d(8, world=world), nn.ReLU(), nn.Linear(8, 3)
).to(dtype=np.float64)

def slow_loss(outputs, labels):
    time.sleep(0.02)
    return F.cross_entropy(outputs, labels)

loader = data.DataLoader(x, y, batch_size=7, shuffle=True, world=world)
history = training.fit(
    model, slow_loss, optim.Adam(model.parameters(), lr=0.01), loader, epochs=8,
    checkpoint=folder / "run", save_seconds=0.0, progress=False, world=world,
)
if world.rank == 0:
    Path(folder, "losses.json").write_text(json.dumps(history.step_losses))
"""


def start(ranks, folder):
    program = folder / "program.py"
    program.write_text(PROGRAM)
    for rank in range(ranks):
        (folder / f"pid{rank}").unlink(missing_ok=True)
    return subprocess.Popen(
        command(ranks, str(program), str(folder)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_pids(ranks, folder):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        texts = [p.read_text() for r in range(ranks) if (p := folder / f"pid{r}").exists()]
        if len(texts) == ranks and all(texts):
            return [int(text) for text in texts]
        time.sleep(0.01)
    raise AssertionError("the ranks do not start")


def losses(folder):
    return np.array(json.loads((folder / "losses.json").read_text()))


def finish(ranks, folder):
    process = start(ranks, folder)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return losses(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return finish(1, tmp_path_factory.mktemp("undisturbed"))


def kill_and_resume(folder, undisturbed, moment, victim, ranks):
    process = start(4, folder)
    pids = wait_for_pids(4, folder)
    time.sleep(moment)
    last = folder / "run" / "last.npz"
    kept = len(load_checkpoint(last)["history"]["step_losses"]) if last.exists() else 0
    os.kill(pids[victim], signal.SIGKILL)
    process.communicate(timeout=HANGS)
    if kept:
        after = load_checkpoint(last)["history"]["step_losses"]
        assert len(after) >= kept
        assert np.abs(after - undisturbed[: len(after)]).max() < 1e-6
    found = finish(ranks, folder)
    assert found.shape == undisturbed.shape
    assert np.abs(found - undisturbed).max() < 1e-6


@needs_mpi
def test_a_killed_run_resumes_on_fewer_ranks(tmp_path, undisturbed):
    kill_and_resume(tmp_path, undisturbed, 0.8, victim=0, ranks=2)


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize("number", range(int(os.environ.get("MINIDL_KILLS", "1"))))
def test_random_moments(tmp_path, undisturbed, number):
    rng = np.random.default_rng(number)
    moment, victim = rng.uniform(0, 4), int(rng.integers(4))
    kill_and_resume(tmp_path, undisturbed, moment, victim, [3, 2, 1][number % 3])
