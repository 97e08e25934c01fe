"""What single chapters do beyond their promises (`test_promises.py`), run as scripts."""

import ast
import csv
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest

import minidl
from minidl import models
from minidl.training import load_weights, save_weights

from .helpers import hosted, ranks
from .test_promises import ARITHMETICS, CHAPTERS, ROOT

LINEAR = ROOT / "chapters" / "ch02_linear_models.py"
TRAINING = ROOT / "chapters" / "ch03_training.py"
POOLING = ROOT / "chapters" / "ch05_pooling.py"
KINDS = ROOT / "chapters" / "ch06_kinds_of_pooling.py"
CIFAR10_CNN = ROOT / "chapters" / "ch07_cifar10_cnn.py"
EXPERIMENTS = ROOT / "chapters" / "ch08_pooling_experiments.py"
TEXT_CNN = ROOT / "chapters" / "ch09_textcnn.py"
RESNET = ROOT / "chapters" / "ch10_resnet.py"
FINE_TUNING = ROOT / "chapters" / "ch11_fine_tuning.py"
GPU = ROOT / "chapters" / "ch12_gpu.py"
RANKS = ROOT / "chapters" / "ch13_many_processes.py"

HOSTED_RUN = """
import runpy, sys
from minidl import backends, models, nn
from tests.helpers import guarded, hosted
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


def heed_ctrl_c():
    """A shell's background jobs ignore Ctrl-C, and so do the processes that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def check_refused(done, message):
    assert (done.returncode, message in done.stderr) == (2, True), (done.args, done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_says_which_flag_is_wrong(chapter, run):
    for arguments, message in [
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--seed", "-1"], "got --seed -1, expected an integer >= 0"),
        (["--out", "/dev/null/here"], "/dev/null"),
    ]:
        check_refused(run(chapter, "--quick", *arguments), message)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chapter", "arguments", "message"),
    [
        (LINEAR, ["--epochs", "0"], "got --epochs 0, expected an integer >= 1"),
        (TRAINING, ["--epochs", "0"], "got --epochs 0, expected an integer >= 1"),
        (TRAINING, ["--data-dir", "x"], "expected --data cifar10"),
    ],
)
def test_chapters_2_and_3_say_which_flag_is_wrong(chapter, arguments, message, run):
    check_refused(run(chapter, "--quick", *arguments), message)


@pytest.mark.slow
def test_chapter_5_measures_what_its_first_lines_say(run):
    done = run(POOLING, "--quick", "--seed", "1")
    result = re.search(
        r"^result: noise left by average ([\d.]+), noise left by max ([\d.]+), "
        r"lone pixel left by average ([\d.]+), lone pixel left by max ([\d.]+),",
        done.stdout,
        re.MULTILINE,
    )
    assert result is not None
    noise, max_noise, pixel, max_pixel = map(float, result.groups())
    assert 0.45 < noise < 0.6  # a mean of four leaves half, and the picture varies a little less
    assert 0.9 < max_noise < 1.1
    assert (pixel, max_pixel) == (0.25, 1)


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_chapter_5_draws_its_conclusions_from_numbers_on_every_processor(
    arithmetic, run, environment, monkeypatch
):
    for name, value in ARITHMETICS[arithmetic].items():
        monkeypatch.setitem(environment, name, value)
    done = run(POOLING, "--quick")
    said = r"against a shift by one pixel: (0\.\d+) to (0\.\d+)\.\nBlurring does: (0\.\d+)\."
    none, largest, blurred = map(float, re.search(said, done.stdout).groups())
    assert 0 < none - largest < 0.12
    assert blurred < 0.6 * none
    kept = re.findall(r"leaves ([\d.]+) of a lone pixel, ([\d.]+) of salt noise", done.stdout)
    (lone_max, salt_max), (lone_mean, salt_mean) = kept
    assert (float(lone_max), float(lone_mean)) == (1, 0.25)
    assert float(salt_max) > 1.3 > 0.8 > float(salt_mean)


@pytest.mark.slow
def test_chapter_6_measures_each_kind_and_advises_on_it(run):
    done = run(KINDS, "--quick", "--seed", "1")
    agreed = re.findall(r"^(\S.*?) +by hand, in NumPy and in minidl: ", done.stdout, re.MULTILINE)
    rows = re.findall(r"^(\S.*?)(?: +[\d.]+){5}$", done.stdout, re.MULTILINE)
    assert {"max", "GeM p=3", "gated", "attention", "stochastic", "channel max"} < set(agreed)
    assert {"max", "GeM p=3", "stochastic drawn", "blur", "every 2nd pixel"} < set(rows)
    numbers = re.findall(r" (?:lone|noise|salt|shift|lost) [\d.]+, \w+ [\d.]+$", done.stdout, re.M)
    assert len(numbers) == 6
    assert re.search(r"^overfitting +stochastic drawn +.*chapter 8$", done.stdout, re.MULTILINE)
    assert "LP p=2 10," in done.stdout  # the one kind that brightens a grey area
    assert done.stdout.count("  Look: ") == 2


@pytest.mark.slow
def test_chapter_7_gives_the_same_result_for_the_same_seed(run):
    def losses(*arguments):
        done = run(CIFAR10_CNN, "--quick", *arguments)
        return re.findall(r"loss ([\d.]+), accuracy ([\d.]+)", done.stdout)

    assert losses("--seed", "1") == losses("--seed", "1") != losses("--seed", "2")


@pytest.mark.slow
def test_chapter_7_saves_weights_that_load_into_the_reference_network(run, tmp_path):
    run(CIFAR10_CNN, "--quick", "--out", "here")
    model = models.cifar10_cnn()
    model.load_state_dict(load_weights(tmp_path / "here" / "weights.npz"))
    assert sum(p.size for p in model.parameters()) == 122_570


def test_chapter_7_builds_the_reference_network():
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
        (["--epochs", "0"], "got --epochs 0, expected an integer >= 1"),
        (["--epochs", "-3"], "got --epochs -3, expected an integer >= 1"),
        (["--batch-size", "0"], "got --batch-size 0, expected an integer >= 1"),
        (["--batch-size", "x"], "argument --batch-size: invalid int value: 'x'"),
        (["--lr", "fast"], "argument --lr: invalid float value: 'fast'"),
        (["--lr", "0"], "got --lr 0.0, expected a finite number > 0"),
        (["--lr", "nan"], "got --lr nan, expected a finite number > 0"),
        (["--speed", "9"], "unrecognized arguments: --speed 9"),
        (["--data-dir", "somewhere"], "got --data-dir with --data toy, expected --data cifar10"),
        (["--data", "cifar10", "--data-dir", "nowhere"], "nowhere"),
    ],
)
def test_chapter_7_says_which_flag_is_wrong(arguments, message, run):
    check_refused(run(CIFAR10_CNN, *arguments), message)


@pytest.mark.slow
def test_chapter_7_stops_when_the_loss_is_no_number(run):
    done = run(CIFAR10_CNN, "--quick", "--lr", "1e30")
    assert done.returncode == 1
    assert re.search(r"the loss is (nan|inf|\S+e\+\d+) in epoch 1, batch \d+", done.stderr)
    assert re.search(r"When repeated, .*'\w+'", done.stderr)
    assert "try a smaller --lr than 1e+30" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_chapter_7_stopped_by_ctrl_c_goes_on_to_the_same_bits(run, environment, tmp_path):
    arguments = ("--quick", "--epochs", "4", "--out")
    unbroken = run(CIFAR10_CNN, *arguments, "unbroken")
    command = [sys.executable, str(CIFAR10_CNN), *arguments, "kept"]
    options = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, preexec_fn=heed_ctrl_c, **options) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 1:"):
                break
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output = process.stdout.read()
    assert process.returncode == 130
    assert re.search(r"stopped after epoch \d( and \d+ batch(es)?)?; .*last\.npz", output)
    assert "to continue, run the same command with --resume" in output
    resumed = run(CIFAR10_CNN, *arguments, "kept", "--resume")
    assert re.search(r"^resuming from .*last\.npz: epoch \d", resumed.stdout, re.M)
    losses = r"^epoch (\d): loss ([\d.]+), accuracy ([\d.]+)%; validation loss ([\d.]+)"
    seen = re.findall(losses, unbroken.stdout, re.M)
    later = re.findall(losses, resumed.stdout, re.M)
    assert later
    assert seen[-len(later) :] == later
    first, second = (load_weights(tmp_path / name / "weights.npz") for name in ("unbroken", "kept"))
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


@pytest.mark.slow
def test_chapter_7_refuses_to_go_on_with_other_settings(run):
    run(CIFAR10_CNN, "--quick", "--out", "kept")
    other = ("--epochs", "2", "--batch-size", "32")
    done = run(CIFAR10_CNN, "--quick", "--out", "kept", "--resume", *other)
    assert done.returncode == 1
    assert "batch_size: saved 64, now 32" in done.stderr
    assert "Traceback" not in done.stderr
    done = run(CIFAR10_CNN, "--quick", "--out", "kept", "--resume", "--epochs", "4")
    assert done.returncode == 1
    assert "schedule.milestones.0: saved 1, now 3" in done.stderr


@pytest.mark.slow
def test_chapter_11_saves_networks_that_load(run, tmp_path):
    done = run(FINE_TUNING, "--quick", "--out", "here")
    assert re.search(r"^from scratch +74,900 ", done.stdout, re.MULTILINE)
    model = models.CifarResNet(1, 4)
    model.load_state_dict(load_weights(tmp_path / "here" / "fine_tuned.safetensors"))
    pretrained = load_weights(tmp_path / "here" / "pretrained.safetensors")
    model.replace_head(6).load_state_dict(pretrained)
    classic = load_weights(tmp_path / "here" / "classic_head.safetensors")
    assert classic["linear.0.weight"].shape == (1024, 64)
    assert np.array_equal(classic["conv1.weight"], pretrained["conv1.weight"])  # it was frozen


@pytest.mark.slow
def test_chapter_11_trains_heads_on_a_folder_of_pictures(run, tmp_path):
    rng = np.random.default_rng(0)
    for name, colour in (("green", 1), ("red", 0)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 90, (40, 60, 3)).astype(np.uint8)
            pixels[:, :, colour] += 100
            plt.imsave(tmp_path / "pictures" / name / f"{number}.png", pixels)
    save_weights(models.resnet18(rng=rng).state_dict(), tmp_path / "resnet18.pth")
    arguments = ["--data", "folder", "--data-dir", "pictures", "--model", "resnet18"]
    done = run(FINE_TUNING, *arguments, "--weights", "resnet18.pth", "--quick")
    assert (done.returncode, done.stderr) == (0, "")
    assert "16 training images, 4 test images\nclasses: green, red" in done.stdout
    assert re.search(r"^classic head +527,362 ", done.stdout, re.MULTILINE)
    assert "unfrozen" not in done.stdout


@pytest.mark.slow
def test_chapter_11_says_what_is_wrong(run, tmp_path):
    save_weights(models.CifarResNet(1).state_dict(), tmp_path / "small.npz")
    (tmp_path / "few" / "one").mkdir(parents=True)
    plt.imsave(tmp_path / "few" / "one" / "x.png", np.zeros((8, 8, 3)))
    cifar10, folder = ["--data", "cifar10"], ["--data", "folder", "--weights", "small.npz"]
    needs = "--data cifar10 needs --weights, folder needs --data-dir too, toy takes neither"
    for arguments, message in [
        (["--labelled", "0"], "got --labelled 0, expected an integer >= 1"),
        (["--epochs", "0"], "got --epochs 0, expected an integer >= 1"),
        (["--weights", "small.npz"], needs),
        (["--data-dir", "few"], needs),
        (cifar10, needs),
        (folder, needs),
        (["--data", "folder", "--data-dir", "few"], needs),
        (["--model", "resnet20"], "got --model resnet20, expected one of ['resnet8']"),
        ([*cifar10, "--model", "resnet18"], "got --model resnet18, expected one of ['resnet20', "),
        ([*folder, "--model", "resnet20"], "got --model resnet20, expected one of ['resnet50', "),
        ([*folder, "--data-dir", "pictures"], "there is no folder pictures"),
        ([*cifar10, "--weights", "small.npz", "--data-dir", "nowhere"], "nowhere"),
        ([*folder, "--data-dir", "few"], "got 0 of 1 images, expected at least 1 in each part"),
    ]:
        check_refused(run(FINE_TUNING, *arguments), message)


@pytest.mark.slow
def test_chapter_12_says_why_it_cannot_use_a_gpu_and_shows_what_needs_none(run):
    done = run(GPU, "--quick")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^ +64 +\d+ +[\d.]+", done.stdout, re.MULTILINE)  # the CPU's column
    try:
        minidl.zeros(1, device="cuda")
        missing = ""
    except RuntimeError as error:
        missing = str(error)
    assert (f"only what needs none: {missing}" in done.stdout) == bool(missing)
    assert ("GPU captured" in done.stdout) == (not missing)


@pytest.mark.slow
def test_chapter_12_insists_on_a_gpu_if_asked_to(run):
    done = run(GPU, "--quick", "--device", "cuda")
    try:
        minidl.zeros(1, device="cuda")
        expected = (0, "")
    except RuntimeError as error:
        expected = (2, str(error))
    assert done.returncode == expected[0]
    assert expected[1] in done.stderr


@pytest.mark.skipif(hosted.compiler() is None, reason="no C++ compiler to build kernels.cu")
@pytest.mark.slow
def test_chapter_12_runs_its_gpu_half_on_kernels_built_for_the_cpu(environment, tmp_path):
    """With a tiny network: the host's products are loops. The times that it prints mean nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HOSTED_RUN, str(GPU)],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"on the GPU: they differ by at most \d\.\de[-+]\d+", done.stdout)
    assert "GPU captured" in done.stdout
    assert re.search(r"^ +64 +\d+( +[\d.]+){3}$", done.stdout, re.MULTILINE)  # no column is empty
    assert "step.png" in done.stdout


SENTENCE = r"^{} ranks: [\d.]+ ms per step, [\d.]+ of it waiting for sums; the tenth loss is (.+)$"


@ranks.needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_chapter_13_equals_one_process_on_ranks_that_it_starts_or_is_given(count, tmp_path):
    """Started as usual, it starts 2 ranks; started by mpiexec, it uses these."""
    launcher = ranks.command(count)[:3] if count > 1 else []
    done = subprocess.run(
        [*launcher, sys.executable, "-W", "error", RANKS, "--quick", "--out", "a folder"],
        cwd=tmp_path,
        env=ranks.environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (one,) = re.findall(SENTENCE.format(1), done.stdout, re.MULTILINE)
    (several,) = re.findall(SENTENCE.format(max(count, 2)), done.stdout, re.MULTILINE)
    assert abs(float(one) - float(several)) < 1e-9
    assert re.search(r"^latency \d+ us, \S+ GB/s measured;", done.stdout, re.MULTILINE)
    assert done.stdout.count("result: equal digits") == 1  # only rank 0 goes on


@pytest.mark.slow
def test_chapter_13_says_how_to_get_mpi(environment, tmp_path):
    code = "import runpy, sys; sys.modules['mpi4py'] = None; sys.argv = sys.argv[1:]\n"
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-W", "error", "-c", code, RANKS, "--quick"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "one process only. For MPI, pip install mpi4py mpich" in done.stdout
    assert "GB/s assumed; efficiency with" in done.stdout
    assert "result: equal digits 16" in done.stdout


def measured(folder):
    """The runs that chapter 8 kept there, without the time, which differs from run to run."""
    with (folder / "runs.csv").open(encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
@pytest.mark.slow
def test_chapter_8_goes_on_where_it_was_stopped(environment, run, tmp_path):
    command = [sys.executable, str(EXPERIMENTS), "--quick", "--out", "broken"]
    options = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, preexec_fn=heed_ctrl_c, **options) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("5/24:"):
                break
        process.send_signal(signal.SIGINT)
        output = process.stdout.read()
    assert process.returncode == 130
    assert "run the same command to resume" in output
    before = measured(tmp_path / "broken")
    assert 5 <= len(before) < 24

    done = run(EXPERIMENTS, "--quick", "--out", "broken")
    assert f"24 runs, {len(before)} of them already in" in done.stdout
    after = measured(tmp_path / "broken")
    assert after[: len(before)] == before
    run(EXPERIMENTS, "--quick", "--out", "unbroken")
    assert after == measured(tmp_path / "unbroken")
    assert len({tuple(row.values()) for row in after}) == 24


@pytest.mark.slow
def test_chapter_8_keeps_runs_of_other_settings_apart(run, tmp_path):
    def result(*arguments):
        done = run(EXPERIMENTS, "--quick", "--batch-size", "96", "--out", "here", *arguments)
        already = re.search(r"(\d+) of them already", done.stdout)[1]
        return already, done.stdout.partition("| net")[2].rpartition(";")[0]  # no time

    first = result()
    assert (first[0], len(measured(tmp_path / "here"))) == ("0", 24)
    other = result("--lr", "0.1")
    assert (other[0], len(measured(tmp_path / "here"))) == ("0", 48)
    assert result("--seeds", "3")[0] == "24"
    assert len(measured(tmp_path / "here")) == 48 + 12
    assert result() == ("24", first[1])  # as if the others were not there
    assert other[1] != first[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--examples", "0"], "got --examples 0, expected an integer >= 1"),
        (["--epochs", "0"], "got --epochs 0, expected an integer >= 1"),
        (["--lr", "inf"], "got --lr inf, expected a finite number > 0"),
        (["--seeds", "1"], "got --seeds 1, expected >= 2: one run has no spread"),
        (["--data-dir", "somewhere"], "got --data-dir with --data toy, expected --data cifar10"),
        (["--out", "."], "runs.csv holds no runs of this experiment"),
    ],
)
def test_chapter_8_says_which_flag_is_wrong(arguments, message, run, tmp_path):
    (tmp_path / "runs.csv").write_text("net,accuracy\nmax,0.9\n")
    check_refused(run(EXPERIMENTS, *arguments), message)


@pytest.mark.slow
def test_chapter_8_stops_when_the_loss_is_no_number(run):
    done = run(EXPERIMENTS, "--quick", "--lr", "1e30")
    assert done.returncode == 1
    assert re.search(r"the loss of none is (nan|inf)\ntry a smaller --lr than 1e\+30", done.stderr)


def asked(done):
    """What chapter 9's network says of each sentence: class by text."""
    found = re.findall(r"^  \d+% (\w+): (.+?)(?: \(never seen.*)?$", done.stdout, re.MULTILINE)
    return {text: name for name, text in found}


@pytest.mark.slow
def test_chapter_9_answers_from_what_it_saved(run, tmp_path):
    """The second call trains nothing, and reads words that it has never seen."""
    first = run(TEXT_CNN, "--quick", "--out", "here", "--predict", "The film is GREAT!")
    assert first.returncode == 0, first.stderr
    answer = re.search(r"^reloaded: (\d+% \w+: The film is GREAT!.*)$", first.stdout, re.MULTILINE)
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "here").iterdir()}
    again = run(TEXT_CNN, "--out", "here", "--predict", "The film is GREAT!")
    assert again.stdout == f"result: {answer[1]}\n"
    assert files == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "here").iterdir()}
    other = run(TEXT_CNN, "--out", "here", "--predict", "zyx")
    assert re.search(r"^result: \d+% \w+: zyx \(never seen: zyx\)$", other.stdout)


@pytest.mark.slow
def test_chapter_9_prints_scores_and_phrases_of_each_class(run):
    done = run(TEXT_CNN, "--quick", "--seed", "1")
    for name in ("negative", "positive"):
        row = re.search(rf"^{name} +([\d.]+)% +([\d.]+)% +([\d.]+)%$", done.stdout, re.M)
        precision, recall, f1 = (float(row[i]) for i in (1, 2, 3))
        assert min(precision, recall) - 0.1 <= f1 <= max(precision, recall) + 0.1
        phrases = re.search(rf"^strongest phrases for {name}: (.+)$", done.stdout, re.M)[1]
        votes = [float(vote) for vote in re.findall(r"(?:'|\") (\d\.\d\d)", phrases)]
        assert len(votes) == 6
        assert votes == sorted(votes, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("labels", [("5", "1"), ("positive", "negative")])
def test_chapter_9_learns_from_a_file_of_ones_own(labels, run, tmp_path):
    rows = [f"good {i},{labels[0]}\nbad {i},{labels[1]}" for i in range(30)]
    (tmp_path / "own.csv").write_text("\n".join(["review,stars", *rows]) + "\n")
    columns = ("--text-column", "review", "--label-column", "stars")
    done = run(TEXT_CNN, "--quick", "--data", "own.csv", *columns)
    assert (done.returncode, done.stderr) == (0, "")
    assert "49 training, 5 validation, 6 test sentences" in done.stdout
    assert f"classes: {', '.join(sorted(labels))}" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "got --epochs 0, expected an integer >= 1"),
        (["--lr", "nan"], "got --lr nan, expected a finite number > 0"),
        (["--data-dir", "somewhere"], "got --data-dir with --data toy, expected --data mr"),
        (["--data", "mr", "--data-dir", "nowhere"], "rt-polarity.neg is missing"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["--data", "one.csv"], "one.csv: got a single label, 1, expected at least 2"),
        (["--data", "one.csv", "--text-column", "x"], "line 1: no column 'x'"),
        (["--data", "bad.csv"], "bad.csv, line 2: got the label '1.5' in 'label'"),
        (["--data", "empty.csv"], "empty.csv: got no rows"),
        (["--data", "latin.csv"], "latin.csv, line 2: byte 0xe9 does not fit the encoding 'utf-8'"),
        (["--predict", " "], "got --predict without a word, expected a sentence"),
    ],
)
def test_chapter_9_says_which_flag_or_line_is_wrong(arguments, message, run, tmp_path):
    files = {
        "one.csv": b"text,label\n" + b"x,1\n" * 20,
        "bad.csv": b"text,label\nx,1.5\n",
        "empty.csv": b"",
        "latin.csv": b"text,label\ncaf\xe9,1\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    check_refused(run(TEXT_CNN, "--quick", *arguments), message)


@pytest.mark.slow
def test_chapter_9_keeps_its_promise_on_the_toy_sentences(run):
    done = run(TEXT_CNN)
    result = re.search(
        r"^result: test accuracy ([\d.]+)%.*bag of words ([\d.]+)%; \d+ s", done.stdout, re.M
    )
    assert float(result[1]) > 95
    assert float(result[2]) < 75
    verdicts = asked(done)
    assert verdicts["the film is good ."] == "positive"
    assert verdicts["the film is not good ."] == "negative"
    assert verdicts["the story is hardly a masterpiece ."] == "negative"
    assert verdicts["the ending is never dull ."] == "positive"


@pytest.mark.slow
def test_chapter_10_finds_that_shortcuts_even_out_gradients(run):
    done = run(RESNET, "--quick")
    ratios = re.findall(r"of the last [\d.e+-]+: ([\d.]+) times as large", done.stdout)
    plain, residual = map(float, ratios)
    assert plain > residual
    without, with_norm = map(float, re.findall(r"last block ([\d.]+)", done.stdout))
    assert without > 2 * with_norm
    assert re.search(r"^result: test accuracy [\d.]+%, plain gradients ", done.stdout, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "got --epochs 0, expected an integer >= 1"),
        (["--lr", "inf"], "got --lr inf, expected a finite number > 0"),
        (["--data-dir", "somewhere"], "got --data-dir with --data toy, expected --data cifar10"),
    ],
)
def test_chapter_10_says_which_flag_is_wrong(arguments, message, run):
    check_refused(run(RESNET, "--quick", *arguments), message)


@pytest.mark.slow
def test_chapter_7_needs_no_matplotlib_and_prints_in_any_encoding(environment, tmp_path):
    """Training, weights and result come first; a figure that cannot be drawn is only reported."""
    hidden = "import runpy, sys\nsys.modules['matplotlib'] = sys.modules['PIL'] = None\n"
    run = "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    out = tmp_path / "Bücher und 中文"
    done = subprocess.run(
        [sys.executable, "-OO", "-c", hidden + run, CIFAR10_CNN, "--quick", "--out", out],
        env=environment | {"PYTHONIOENCODING": "ascii:strict"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no figure: plots need Matplotlib") == 9
    assert "python -m pip install matplotlib" in done.stdout
    assert re.search(r"^weights: .*B\\xfccher und \\u4e2d", done.stdout, re.MULTILINE)
    assert "result: test accuracy" in done.stdout
    assert (out / "weights.npz").is_file()


@pytest.mark.slow
def test_a_full_disk_does_not_stop_a_chapter(environment, tmp_path):
    full = """
import runpy, sys
from pathlib import Path
from minidl.inspect import plots
def savefig(*_, **__):
    raise OSError(28, "No space left on device")
plots.pyplot().Figure.savefig = savefig
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""
    command = [sys.executable, "-c", full, GPU, "--quick", "--out", tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no figure: [Errno 28] No space left on device" in done.stdout
    assert "result: equal losses" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_starts_without_docstrings_and_in_ascii(chapter, environment):
    command = [sys.executable, "-OO", chapter, "--help"]
    ascii_only = environment | {"PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(command, env=ascii_only, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.name == "nt", reason="pipes break otherwise there")
@pytest.mark.parametrize(
    "chapter", CHAPTERS[:1] + [pytest.param(c, marks=pytest.mark.slow) for c in CHAPTERS[1:]]
)
@pytest.mark.parametrize("how", ["| true", ">&- 2>&-"])
def test_a_chapter_ends_well_when_nobody_reads(chapter, how, environment, tmp_path):
    """Whether a pipe's reader ended, as `head` does, or there are no streams, as in a service."""
    command = shlex.join([sys.executable, str(chapter), "--quick"])
    chapter_run = f"{command} {how}; echo ${{PIPESTATUS[0]}} > code"
    options = {"cwd": tmp_path, "env": environment, "stderr": subprocess.PIPE, "text": True}
    done = subprocess.run(["bash", "-c", chapter_run], **options)
    assert ((tmp_path / "code").read_text(), done.stderr) == ("0\n", "")


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_prints_ascii_and_whatever_a_path_or_text_contains(chapter):
    source = chapter.read_text(encoding="utf-8")
    assert re.search(r"\bChapter\(\s*__doc__", source)  # which replaces sys.stdout by an `Output`
    tree = ast.parse(source)
    drawn = {  # Matplotlib draws any character
        id(text)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "").startswith("set")
        for text in ast.walk(call)
    }
    texts = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in drawn)
    wrong = [n.value for n in texts if isinstance(n.value, str) and not n.value.isascii()]
    assert not wrong
