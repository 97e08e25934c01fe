"""Training goes on, and saves, whatever has become of standard output and error."""

import contextlib
import importlib.util
import io
import os
import re
import struct
import subprocess
import sys
import time
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


# Terminals, files and notebooks ----------------------------------------------------------------


def train_slowly(folder, progress=None):
    """Train for two epochs of 0.6 s, in which a bar is drawn several times."""

    def loss(*arguments):
        time.sleep(0.15)
        return cross_entropy(*arguments)

    x = np.random.default_rng(0).standard_normal((32, 4), np.float32)
    model = nn.Sequential(nn.Linear(4, 8, rng=np.random.default_rng(0)), nn.ReLU(), nn.Linear(8, 2))
    batches = DataLoader(x, (x[:, 0] > 0).astype(int), batch_size=8)
    sgd = optim.SGD(model.parameters(), lr=0.01)
    fit(model, loss, sgd, batches, epochs=2, checkpoint=folder, progress=progress)


SLOWLY = "import sys\nfrom tests.test_progress import train_slowly\ntrain_slowly(sys.argv[1])"


def on_a_terminal(folder, columns, **environment):
    """Return the raw text that a real terminal of this width gets from a training run."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    fcntl = pytest.importorskip("fcntl")
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-c", SLOWLY, str(folder)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    raw = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while block := os.read(ours, 4096):
            raw += block
    os.close(ours)
    assert process.wait() == 0, raw
    return raw.decode(environment.get("PYTHONIOENCODING", "utf-8")).replace("\r\n", "\n")


def on_screen(raw):
    """Return the lines that a terminal shows in the end."""
    lines = []
    for line in raw.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return [line for line in lines if line]


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    ("columns", "environment", "filled"),
    [
        (100, {"NO_COLOR": "1"}, "█"),
        (32, {"PYTHONIOENCODING": "cp1252"}, "#"),  # narrow; Windows has such encodings
    ],
)
def test_a_terminal_shows_a_bar_that_the_epochs_line_replaces(
    columns, environment, filled, tmp_path
):
    raw = on_a_terminal(tmp_path, columns, **{"TERM": "xterm-256color"} | environment)
    drawn = [part for part in re.split(r"[\r\n]", raw) if re.match(r"epoch \d/2:", part)]
    assert len(drawn) > 4
    assert max(map(len, drawn)) <= columns
    assert [part for part in drawn if "100%" in part and filled in part]
    assert "\x1b" not in raw  # no colours, and no moves that a simple terminal lacks
    assert all(map(str.isascii, drawn)) == (filled != "█")
    first, second = on_screen(raw)
    assert first.startswith("epoch 1: loss ")
    assert second.startswith("epoch 2: loss ")


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_dumb_terminal_gets_a_line_per_epoch(tmp_path):
    raw = on_a_terminal(tmp_path, 80, TERM="dumb")
    assert "\r" not in raw
    assert [line[:8] for line in raw.splitlines()] == ["epoch 1:", "epoch 2:"]


def test_a_file_gets_a_line_per_epoch(tmp_path):
    command = [sys.executable, "-c", SLOWLY, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert done.stderr == b""
    assert b"\r" not in done.stdout.replace(os.linesep.encode(), b"\n")
    assert [line[:8] for line in done.stdout.decode().splitlines()] == ["epoch 1:", "epoch 2:"]


def in_a_notebook(folder, source, is_read):
    """Return a cell's outputs, and the texts shown one after the other in the bar's place."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    if importlib.util.find_spec("ipykernel") is None:
        pytest.skip("needs ipykernel")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    texts = []

    class Client(nbclient.NotebookClient):
        async def async_start_new_kernel_client(self):
            started = await super().async_start_new_kernel_client()
            self.kc.allow_stdin = is_read
            return started

        def process_message(self, message, *arguments):
            if "display_data" in message["msg_type"]:
                texts.append(message["content"]["data"]["text/plain"])
            return super().process_message(message, *arguments)

    Client(book, timeout=100, resources={"metadata": {"path": str(ROOT)}}).execute()
    return book.cells[0].outputs, texts


@pytest.mark.parametrize("is_read", [True, False])
def test_a_notebook_shows_a_bar_in_one_place_if_somebody_reads_it(is_read, tmp_path):
    source = SLOWLY.replace("sys.argv[1]", repr(str(tmp_path)))
    outputs, texts = in_a_notebook(tmp_path, source, is_read)
    assert {o.get("name") for o in outputs} <= {None, "stdout"}  # nothing on red ground
    printed = "".join(o.text for o in outputs if o.output_type == "stream")
    assert "\r" not in printed
    assert [line[:8] for line in printed.splitlines()] == ["epoch 1:", "epoch 2:"]
    places = [o for o in outputs if o.output_type == "display_data"]
    assert len(places) == is_read
    if is_read:
        assert len([text for text in texts if text.startswith("epoch 1/2: ")]) > 2
        assert len([text for text in texts if text.startswith("epoch 2/2: ")]) > 2
        assert max(map(len, texts)) <= 100
        assert places[0].data == {"text/plain": ""}
