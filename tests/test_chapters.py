"""Every chapter runs as a learner would run it: as a script, from another folder."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import minidl
from minidl import models
from minidl.training import load_weights

from . import hosted

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "chapters").glob("ch*.py"))
POOLING = ROOT / "chapters" / "ch05_pooling.py"
CIFAR10_CNN = ROOT / "chapters" / "ch06_cifar10_cnn.py"
GPU = ROOT / "chapters" / "ch11_gpu.py"

HOSTED_RUN = """
import runpy, sys
from minidl import backends, models, nn
from tests import guarded, hosted
backend = hosted.HostedBackend()
backend.device = "cuda"
backends.register(guarded.GuardedArray, backend)
models.cifar10_cnn = lambda classes=10, rng=None: nn.Sequential(
    *(nn.Conv2d(3, 2, 3, rng=rng), nn.ReLU(), nn.MaxPool2d(6), nn.Flatten()),
    nn.Linear(50, classes, rng=rng),
)
sys.argv = [sys.argv[1], "--quick"]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not guarded.hidden, f"the host waited for {guarded.hidden}"
"""
RESNET = ROOT / "chapters" / "ch09_resnet.py"
EXPERIMENTS = ROOT / "chapters" / "ch07_pooling_experiments.py"


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """No screen, and a folder for generated data that only these tests share."""
    datasets = str(tmp_path_factory.mktemp("datasets"))
    return os.environ | {"MPLBACKEND": "Agg", "MINIDL_DATASETS": datasets}


@pytest.fixture
def run(environment, tmp_path):
    def run_chapter(chapter, *arguments):
        command = [sys.executable, str(chapter), *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run_chapter


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_runs_quickly_from_another_folder(chapter, run):
    done = run(chapter, "--quick")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.search(r"^result: ", done.stdout, re.MULTILINE)
    for path in re.findall(r"^picture: (.+)$", done.stdout, re.MULTILINE):
        assert Path(path).read_bytes().startswith(b"\x89PNG")


def test_chapter_5_measures_what_its_first_lines_say(run):
    done = run(POOLING, "--quick", "--seed", "1")
    result = re.search(
        r"^result: average leaves ([\d.]+) of the noise and ([\d.]+) of a lone pixel, "
        r"max ([\d.]+) and ([\d.]+);",
        done.stdout,
        re.MULTILINE,
    )
    assert result is not None
    noise, pixel, max_noise, max_pixel = map(float, result.groups())
    assert 0.45 < noise < 0.6  # a mean of four leaves half, and the picture varies a little less
    assert 0.9 < max_noise < 1.1
    assert (pixel, max_pixel) == (0.25, 1)


def test_chapter_5_prints_a_row_and_advice_for_each_kind(run):
    done = run(POOLING, "--quick")
    rows = re.findall(r"^(\S.*?) +[\d.]+(?: +[\d.]+){7}$", done.stdout, re.MULTILINE)
    advised = re.findall(r"^choose (.+?) +for: \S", done.stdout, re.MULTILINE)
    assert len(rows) == 9
    assert advised == rows
    assert len(re.findall(r"; last: ", done.stdout)) == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "wants --seed from 0"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--out", "/dev/null/here"], "/dev/null"),
    ],
)
def test_chapter_5_says_which_flag_is_wrong(arguments, message, run):
    done = run(POOLING, "--quick", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_chapter_6_gives_the_same_result_for_the_same_seed(run):
    def losses(*arguments):
        done = run(CIFAR10_CNN, "--quick", *arguments)
        return re.findall(r"loss ([\d.]+), accuracy ([\d.]+)", done.stdout)

    assert losses("--seed", "1") == losses("--seed", "1") != losses("--seed", "2")


def test_chapter_6_saves_weights_that_load_into_the_reference_network(run, tmp_path):
    run(CIFAR10_CNN, "--quick", "--out", "here")
    model = models.cifar10_cnn()
    model.load_state_dict(load_weights(tmp_path / "here" / "weights.npz"))
    assert sum(p.size for p in model.parameters()) == 122_570


def test_chapter_6_builds_the_reference_network():
    """The chapter spells the network out; the library has it ready. They must not drift apart."""
    text = CIFAR10_CNN.read_text(encoding="utf-8")
    built = text.partition("model = ")[2].partition(").to(")[0] + ")"
    from minidl import nn

    rng = np.random.default_rng(0)
    names = {"nn": nn, "rng": rng, "len": len, "train": type("", (), {"classes": range(10)})}
    assert repr(eval(built, names)) == repr(models.cifar10_cnn())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "mnist"], "argument --data: invalid choice: 'mnist'"),
        (["--epochs", "0"], "wants --epochs and --batch-size from 1"),
        (["--epochs", "-3"], "wants --epochs and --batch-size from 1"),
        (["--batch-size", "x"], "argument --batch-size: invalid int value: 'x'"),
        (["--lr", "fast"], "argument --lr: invalid float value: 'fast'"),
        (["--lr", "0"], "--lr above 0"),
        (["--lr", "nan"], "--lr above 0"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--speed", "9"], "unrecognized arguments: --speed 9"),
        (["--seed", "-1"], "--seed from 0"),
        (["--data-dir", "somewhere"], "--data-dir goes with --data cifar10"),
        (["--out", "/dev/null/here"], "/dev/null"),
        (["--data", "cifar10", "--data-dir", "nowhere"], "nowhere"),
    ],
)
def test_chapter_6_says_which_flag_is_wrong(arguments, message, run):
    done = run(CIFAR10_CNN, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_chapter_6_stops_when_the_loss_is_no_number(run):
    done = run(CIFAR10_CNN, "--quick", "--lr", "1e30")
    assert done.returncode == 1
    assert re.search(r"the loss is (nan|inf) in epoch 1: try a smaller --lr", done.stderr)


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_chapter_6_stopped_by_ctrl_c_says_what_is_kept(environment, tmp_path):
    command = [sys.executable, str(CIFAR10_CNN), "--quick", "--epochs", "1000", "--out", "kept"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 1:"):
                break
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        output = process.stdout.read()
    assert process.returncode == 130
    assert re.search(r"stopped in epoch \d+; epoch \d+ is in .*weights\.npz", output)
    assert load_weights(tmp_path / "kept" / "weights.npz")


@pytest.mark.slow
def test_chapter_6_keeps_its_promise_on_the_toy_pictures(run):
    done = run(CIFAR10_CNN)
    accuracy = re.search(r"^result: test accuracy ([\d.]+)%", done.stdout, re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy[1]) > 90


def test_chapter_11_asked_for_a_gpu_it_cannot_use_says_why_and_shows_the_cpu_half(run):
    done = run(GPU, "--quick", "--device", "cuda")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^ +64 +\d+ +[\d.]+ ", done.stdout, re.MULTILINE)  # the CPU's column
    try:
        minidl.zeros(1, device="cuda")
        missing = ""
    except RuntimeError as error:
        missing = str(error)
    assert (f"CPU half: {missing}" in done.stdout) == bool(missing)
    assert ("GPU captured " in done.stdout.partition("result: ")[2]) == (not missing)


@pytest.mark.slow
def test_chapter_11_says_which_flag_is_wrong(run):
    for arguments, message in [
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--seed", "-1"], "wants --seed from 0"),
        (["--out", "/dev/null/here"], "/dev/null"),
    ]:
        done = run(GPU, *arguments)
        assert (done.returncode, message in done.stderr) == (2, True)
        assert "Traceback" not in done.stderr


@pytest.mark.skipif(hosted.compiler() is None, reason="no C++ compiler to build kernels.cu")
@pytest.mark.slow
def test_chapter_11_runs_its_gpu_half_on_kernels_built_for_the_cpu(environment, tmp_path):
    """With a tiny network: the host's products are loops. The times that it prints mean nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HOSTED_RUN, str(GPU)],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"on the GPU: at most \d\.\de[-+]\d+ apart", done.stdout)
    assert re.search(r"^ +64 +\d+( +[\d.]+){4}$", done.stdout, re.MULTILINE)  # no column is empty
    assert "GPU captured " in done.stdout.partition("result: ")[2]


def measured(folder):
    """The runs that chapter 7 kept there, without the time, which differs from run to run."""
    with (folder / "runs.csv").open(encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
@pytest.mark.slow
def test_chapter_7_goes_on_where_it_was_stopped(environment, run, tmp_path):
    command = [sys.executable, str(EXPERIMENTS), "--quick", "--out", "broken"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("5/34:"):
                break
        process.send_signal(signal.SIGINT)
        output = process.stdout.read()
    assert process.returncode == 130
    assert "the same command goes on from there" in output
    before = measured(tmp_path / "broken")
    assert 5 <= len(before) < 34

    done = run(EXPERIMENTS, "--quick", "--out", "broken")
    assert f"34 runs, of which {len(before)} are in" in done.stdout
    after = measured(tmp_path / "broken")
    assert after[: len(before)] == before
    run(EXPERIMENTS, "--quick", "--out", "unbroken")
    assert after == measured(tmp_path / "unbroken")
    assert len({tuple(row.values()) for row in after}) == 34


@pytest.mark.slow
def test_chapter_7_keeps_runs_of_other_settings_apart(run, tmp_path):
    def result(*arguments):
        done = run(EXPERIMENTS, "--quick", "--batch-size", "96", "--out", "here", *arguments)
        return re.search(r"of which (\d+) are", done.stdout)[1], done.stdout.partition("| net")[2]

    first = result()
    assert (first[0], len(measured(tmp_path / "here"))) == ("0", 34)
    other = result("--lr", "0.1")
    assert (other[0], len(measured(tmp_path / "here"))) == ("0", 68)
    assert result("--seeds", "3")[0] == "34"
    assert len(measured(tmp_path / "here")) == 68 + 17
    assert result() == ("34", first[1])  # as if the others were not there
    assert other[1] != first[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "0"], "wants --images, --epochs and --batch-size from 1"),
        (["--epochs", "0"], "wants --images, --epochs and --batch-size from 1"),
        (["--lr", "inf"], "--lr above 0"),
        (["--seed", "-1"], "--seed from 0"),
        (["--seeds", "1"], "--seeds from 2: one run has no spread"),
        (["--data-dir", "somewhere"], "--data-dir goes with --data cifar10"),
        (["--out", "/dev/null/here"], "/dev/null"),
        (["--out", "."], "runs.csv holds no runs of this chapter"),
    ],
)
def test_chapter_7_says_which_flag_is_wrong(arguments, message, run, tmp_path):
    (tmp_path / "runs.csv").write_text("net,accuracy\nmax,0.9\n")
    done = run(EXPERIMENTS, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_chapter_7_stops_when_the_loss_is_no_number(run):
    done = run(EXPERIMENTS, "--quick", "--lr", "1e30")
    assert done.returncode == 1
    assert re.search(r"the loss of none, flatten is (nan|inf): try a smaller --lr", done.stderr)


def test_chapter_9_finds_that_shortcuts_even_out_gradients(run):
    done = run(RESNET, "--quick")
    ratios = re.findall(r"of the last [\d.e+-]+: ([\d.]+) times as large", done.stdout)
    plain, residual = map(float, ratios)
    assert plain > residual
    without, with_norm = map(float, re.findall(r"last block is ([\d.]+)", done.stdout))
    assert without > 2 * with_norm
    assert re.search(r"^result: test accuracy [\d.]+% after epoch 1", done.stdout, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "wants --epochs and --batch-size from 1"),
        (["--lr", "inf"], "--lr above 0"),
        (["--data-dir", "somewhere"], "--data-dir goes with --data cifar10"),
        (["--out", "/dev/null/here"], "/dev/null"),
    ],
)
def test_chapter_9_says_which_flag_is_wrong(arguments, message, run):
    done = run(RESNET, "--quick", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
