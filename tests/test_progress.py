"""Training goes on, and saves, whatever has become of standard output and error."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minidl import nn, optim
from minidl.data import DataLoader
from minidl.functional import cross_entropy
from minidl.training import fit, load_checkpoint
from minidl.training.progress import Output
from minidl.training.warnings import warn

ROOT = Path(__file__).resolve().parent.parent


def trained(folder, scale=1.0, **options):
    """Train for two epochs, and return how many the checkpoint has."""
    x = scale * np.random.default_rng(0).standard_normal((32, 4), np.float32)
    model = nn.Sequential(nn.Linear(4, 8, rng=np.random.default_rng(0)), nn.ReLU(), nn.Linear(8, 2))
    batches = DataLoader(x, (x[:, 0] > 0).astype(int), batch_size=8)
    sgd = optim.SGD(model.parameters(), lr=0.01)
    fit(model, cross_entropy, sgd, batches, epochs=2, checkpoint=folder, **options)
    return len(load_checkpoint(folder / "last.npz")["history"]["columns"]["train_loss"])


class Raises(io.StringIO):
    """A stream that raises something whenever it is used."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error

    def isatty(self):
        raise self.error


class Bare:
    """A stream that has no more than `write`, as loggers put in place of standard error."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS = {
    "none": lambda: None,
    "closed": closed,
    "bare": Bare,
    "full disk": lambda: Raises(OSError("No space left on device")),
    "broken": lambda: Raises(RuntimeError("whatever")),
    "encoding": lambda: io.TextIOWrapper(io.BytesIO(), "ascii"),
}


@pytest.mark.parametrize("progress", [None, True])
@pytest.mark.parametrize("name", STREAMS)
def test_training_goes_on_with_any_output(name, progress, tmp_path, monkeypatch):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, STREAMS[name]())
    assert trained(tmp_path / "größe", progress=progress) == 2


@pytest.mark.parametrize("progress", [None, True])
@pytest.mark.filterwarnings("default")
def test_training_goes_on_when_output_is_closed_during_the_run(progress, tmp_path, monkeypatch):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.StringIO())

    def close(run):
        sys.stdout.close()
        sys.stderr.close()

    assert trained(tmp_path, scale=20, progress=progress, callbacks=[close]) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("method", ["update", "close", "set_postfix_str"])
def test_a_bar_that_fails_does_not_end_training(method, tmp_path, monkeypatch):
    import tqdm

    def fail(*arguments, **options):
        raise OSError("closed")

    monkeypatch.setattr(tqdm.tqdm, method, fail)
    assert trained(tmp_path, progress=True) == 2


@pytest.mark.filterwarnings("always")
def test_a_warning_that_cannot_be_shown_does_not_end_training(monkeypatch):
    def show(*arguments):
        raise ValueError("I/O operation on closed file")

    monkeypatch.setattr("warnings.showwarning", show)
    warn("unseen")


def test_characters_that_an_encoding_lacks_become_numbers(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    Output("stdout").write("größe \udcff\n")
    assert raw.getvalue() == rb"gr\xf6\xdfe \udcff" + b"\n"


@pytest.mark.parametrize("name", STREAMS)
def test_a_program_that_prints_through_an_output_never_fails(name, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Output(STREAMS[name]()))
    print("größe", flush=True)
    assert not sys.stdout.isatty()
    assert sys.stdout.encoding


def test_lines_still_go_where_prints_go(tmp_path, capsys):
    trained(tmp_path)
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out] == ["epoch 1", "epoch 2"]


@pytest.mark.skipif(os.name == "nt", reason="pipes break otherwise there")
def test_after_a_closed_pipe_the_program_ends_well(tmp_path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom tests.test_progress import trained\n"
        "trained(Path(sys.argv[1]))\nprint('result', flush=True)\nprint('more')\n"
        "Path(sys.argv[1], 'done').touch()"
    )
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", script, tmp_path]
    ended = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "done").exists()
