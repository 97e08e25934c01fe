"""Windows and macOS, imitated: missing modules, files that are briefly locked, file names."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minidl import nn, optim
from minidl.data import DataLoader, Vocabulary
from minidl.files import load_checkpoint, save_checkpoint, whole_file
from minidl.files.whole import clear_parts
from minidl.inspect import plots
from minidl.training import History, fit, load_weights, save_weights

ROOT = Path(__file__).resolve().parent.parent

# What Windows lacks; macOS lacks a part of it.
ABSENT = """
import ctypes, os, signal, sys
for name in ("fcntl", "grp", "pwd", "resource"):
    sys.modules[name] = None
for module, names in {
    os: "fork forkpty geteuid getuid getloadavg mkfifo register_at_fork sched_getaffinity sysconf "
    "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK statvfs",
    signal: "SIGALRM SIGHUP SIGKILL SIGQUIT SIGUSR1 alarm pthread_kill pthread_sigmask setitimer",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
real = ctypes.CDLL
def refuse(*_, **__):
    raise TypeError("LoadLibrary() argument 1 must be str, not None")
ctypes.CDLL = lambda name, *rest, **options: (real if name else refuse)(name, *rest, **options)
"""

TRAIN = """
import pathlib, warnings
warnings.simplefilter("ignore")  # the file system has no locks
from minidl import data, inspect, models, nn, optim, training
train, _ = data.load_toy10()
train = train.first(128)
model = models.cifar10_cnn()
adam = optim.Adam(model.parameters())
normalize = data.Normalize.fit(train.images)
batches = data.DataLoader(
    train.images, train.labels, batch_size=64, transform=normalize, prefetch=1
)
out = pathlib.Path(sys.argv[1])
training.fit(model, nn.CrossEntropyLoss(), adam, batches, batches, epochs=1, checkpoint=out)
model.load_state_dict(training.load_weights(out / "best.npz"))
training.save_weights(model.state_dict(), out / "weights.safetensors")
training.load_weights(out / "weights.safetensors")
inspect.plots.save(inspect.plots.training_curves({"train_loss": [1.0]}), out / "curves.png")
"""


def test_everything_works_without_what_other_systems_lack(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ABSENT + TRAIN, tmp_path / "run"],
        env=os.environ | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 1: loss" in done.stdout
    assert (tmp_path / "run" / "curves.png").is_file()


@pytest.fixture
def held(monkeypatch):
    """Refuse to rename files as often as `held[0]` says; note the waits."""
    rename, waits = os.replace, []
    times = [0]

    def refuse(source, target):
        if times[0]:
            times[0] -= 1
            raise PermissionError(13, "The process cannot access the file", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr("time.sleep", waits.append)
    return times, waits


@pytest.mark.parametrize("refused", [0, 1, 3])
def test_a_file_that_is_held_for_a_moment_is_replaced_a_little_later(refused, held, tmp_path):
    times, waits = held
    times[0] = refused
    with whole_file(tmp_path / "file") as file:
        file.write(b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert len(waits) == refused
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_stays_held_is_an_error_and_the_older_one_stays(held, tmp_path):
    times, waits = held
    (tmp_path / "file").write_bytes(b"older")
    times[0] = 100
    with pytest.raises(PermissionError), whole_file(tmp_path / "file") as file:
        file.write(b"newer")
    assert (tmp_path / "file").read_bytes() == b"older"
    assert sum(waits) < 1
    assert os.listdir(tmp_path) == ["file"]


NAMES = ["with spaces", "Bücher", "图片", "🙂" * 20, "[a-b]*" if os.name != "nt" else "[a-b]"]


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_file_is_written_and_read_under_any_name(name, tmp_path):
    folder = tmp_path / name / name
    weights = {"weight": np.arange(3.0)}
    for suffix in ("npz", "safetensors", "pt"):
        path = save_weights(weights, folder / f"{name}.{suffix}")
        assert load_weights(path)["weight"].tolist() == [0, 1, 2]
    save_checkpoint({"epoch": 3}, folder / f"{name}.npz")
    assert load_checkpoint(folder / f"{name}.npz")["epoch"] == 3
    vocabulary = Vocabulary.build([[name]])
    vocabulary.save(folder / f"{name}.json")
    assert Vocabulary.load(folder / f"{name}.json").words == vocabulary.words
    history = History()
    history.append(train_loss=1.0)
    assert history.save(folder / f"{name}.csv").is_file()
    assert plots.save(plots.training_curves(history), folder / f"{name}.png").is_file()


@pytest.mark.parametrize("letter", ["a", "图", "🙂"])
def test_names_may_be_as_long_as_the_system_allows(letter, tmp_path):
    name = letter * (250 // len(letter.encode())) + ".npz"
    path = save_weights({"weight": np.ones(2)}, tmp_path / name)
    assert load_weights(path)["weight"].tolist() == [1, 1]
    (tmp_path / f".{name[:50]}.0123.part").touch()
    clear_parts(path)
    assert os.listdir(tmp_path) == [name]


def test_a_long_path_is_written_and_read(tmp_path):
    folder = tmp_path.joinpath(*["folder" * 20] * 10)
    path = save_weights({"weight": np.ones(2)}, folder / "weights.npz")
    assert load_weights(path)["weight"].tolist() == [1, 1]


def test_a_run_stays_in_its_folder_when_a_callback_changes_the_working_directory(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    model = nn.Linear(2, 2)
    batches = DataLoader(
        np.array([[1, -1], [-1, 1]] * 2, np.float32), np.array([0, 1] * 2), batch_size=2
    )
    fit(
        *(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1), batches),
        epochs=2,
        checkpoint="run",
        callbacks=[lambda run: os.chdir(tmp_path / "elsewhere")],
        progress=False,
    )
    assert len(load_checkpoint(tmp_path / "run" / "last.npz")["history"]["step_losses"]) == 4
    assert not list((tmp_path / "elsewhere").iterdir())


def text_files_opened_by_default(tree):
    """Yield the lines that open a text file in the encoding of whatever system they run on."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        parts = (part for argument in call.args for part in ast.walk(argument))
        texts = [part.value for part in parts if isinstance(part, ast.Constant)]
        given = {keyword.arg for keyword in call.keywords}
        is_text = name == "open" and not any("b" in str(text) for text in texts)
        if name in ("read_text", "write_text") or is_text:
            owner = ast.unparse(call.func).split(".")[0]
            is_known = owner in (
                "os",
                "zipfile",
                "tarfile",
                "Image",
                "archive",
                "np",
                "webbrowser",
                "PIL",
            )
            if "encoding" not in given and "utf-8" not in texts and not is_known:
                yield ast.unparse(call)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX files")
@pytest.mark.parametrize("make", [os.mkdir, getattr(os, "mkfifo", None)], ids=["folder", "fifo"])
def test_what_is_no_regular_file_is_not_replaced(make, tmp_path):
    """As root, saving to /dev/null would put a file in its place, for the whole system."""
    path = tmp_path / "w.npz"
    make(path)
    before = path.stat()
    with pytest.raises(OSError, match=r"w\.npz is not a regular file"):
        save_checkpoint({"epoch": 1}, path)
    assert os.path.samestat(path.stat(), before)
    assert os.listdir(tmp_path) == ["w.npz"]


def test_text_files_have_an_encoding():
    files = [*ROOT.glob("minidl/**/*.py"), *ROOT.glob("chapters/**/*.py")]
    found = {
        f"{file.name}: {line}"
        for file in files
        for line in text_files_opened_by_default(ast.parse(file.read_text(encoding="utf-8")))
    }
    assert {line for line in found if "opener" not in line} == set()
    assert list(text_files_opened_by_default(ast.parse("path.open()\nopen(p, 'w')\nopen(p, 'rb')")))


def test_the_workflow_runs_every_python_that_the_package_names():
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    pythons = re.findall(r'"([\d.]+t?)"', re.search(r"python: \[(.*)\]", workflow)[1])
    assert pythons == [*named, f"{named[-1]}t"]
    for system, runner in {"Linux": "ubuntu", "MacOS": "macos", "Windows": "windows"}.items():
        assert re.search(rf"Operating System :: .*{system}", project)
        assert f"{runner}-latest" in workflow
