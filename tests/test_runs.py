"""Trainings and experiments of chapters that are interrupted: `Chapter.interruptible`, `Runs`."""

import linecache
import os
import sys

import pytest

from minidl.chapter import Chapter, Runs


def chapter_in(folder, *given, **declared):
    return Chapter("Chapter 0.", given=["--out", str(folder), *given], **declared)


def test_ctrl_c_ends_a_training_with_advice(tmp_path, capsys):
    with (
        pytest.raises(SystemExit) as ended,
        chapter_in(tmp_path).interruptible("run it again"),
    ):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().out == "run it again\n"


def test_a_loss_that_is_not_finite_asks_for_a_smaller_rate(tmp_path):
    chapter = chapter_in(tmp_path, lr=(0.5, "rate"))
    with pytest.raises(SystemExit) as ended, chapter.interruptible("again"):
        raise FloatingPointError("the loss is nan")
    assert ended.value.code == "the loss is nan\ntry a smaller --lr than 0.5"


def test_only_a_resumed_training_hides_where_a_value_error_came_from(tmp_path):
    resume = (False, "continue")
    with pytest.raises(ValueError, match="damaged"), chapter_in(tmp_path).interruptible(""):
        raise ValueError("damaged")
    chapter = chapter_in(tmp_path, "--resume", resume=resume)
    with pytest.raises(SystemExit) as ended, chapter.interruptible(""):
        raise ValueError("damaged")
    assert ended.value.code == "damaged"


# Runs ------------------------------------------------------------------------------------------


def train(seed):
    return seed / 10


def other(seed):
    return seed / 20


def runs_in(folder, *functions, lr=0.1, measured=("accuracy", "seconds")):
    return Runs(folder / "runs.csv", {"lr": lr}, ("net", "seed"), measured, functions)


def test_finished_runs_are_there_when_an_experiment_is_run_again(tmp_path):
    runs = runs_in(tmp_path, train)
    values = {"accuracy": 0.1 + 0.2, "seconds": 3}
    runs.add(("max, 2x2", 0), values)
    again = runs_in(tmp_path, train)
    assert ("max, 2x2", 0) in again
    assert ("max, 2x2", 1) not in again
    assert again[("max, 2x2", 0)] == values  # to the last bit
    with pytest.raises(KeyError):
        again[("max, 2x2", 1)]
    again.add(("max, 2x2", 1), values)
    lines = (tmp_path / "runs.csv").read_text().splitlines()
    assert lines[0] == "lr,code,net,seed,accuracy,seconds"
    assert len(lines) == 3


def test_runs_of_other_settings_or_source_stay_but_do_not_count(tmp_path):
    values = {"accuracy": 0.5, "seconds": 1}
    runs_in(tmp_path, train).add(("max", 0), values)
    for changed in (runs_in(tmp_path, train, lr=0.2), runs_in(tmp_path, other)):
        assert ("max", 0) not in changed
        changed.add(("max", 0), {"accuracy": 0.75, "seconds": 1})
    assert runs_in(tmp_path, train)[("max", 0)] == values
    assert runs_in(tmp_path, other)[("max", 0)]["accuracy"] == 0.75


def test_a_class_typed_in_a_notebook_counts_by_its_methods(tmp_path, monkeypatch):
    # Python finds a class through its module's file; a notebook's module has none.
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    found = set()
    for number in (1, 2, 1):
        text = f"class Net:\n    depth = 3\n\n    def forward(self):\n        return {number}\n"
        name = f"<cell {number}>"
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        space = {"__name__": "__main__"}
        exec(compile(text, name, "exec"), space)
        found.add(tuple(runs_in(tmp_path / "x", space["Net"])._settings))
    assert len(found) == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not enough values"),
        ("net,accuracy\nmax,0.9\n", "its columns differ"),
        ("lr,code,net,seed,accuracy,seconds\n0.1,x,max,0,0.9\n", "got a row of 5 values for 6"),
        ("lr,code,net,seed,accuracy,seconds\n0.1,x,max,0,0.9,fast\n", "could not convert"),
        ('lr,code,net,seed,accuracy,seconds\n0.1,"x,max,0,0.9,3\n', "unexpected end of data"),
        (b"\xff\xfe", "codec can't decode"),
    ],
)
def test_a_damaged_file_is_refused_and_stays(text, complaint, tmp_path):
    path = tmp_path / "runs.csv"
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"runs.csv holds no runs of this experiment.*{complaint}"):
        runs_in(tmp_path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_write_that_fails_leaves_the_file_as_it_was(error, tmp_path, monkeypatch):
    runs = runs_in(tmp_path)
    runs.add(("max", 0), {"accuracy": 0.5, "seconds": 1})
    before = (tmp_path / "runs.csv").read_bytes()

    def stop(descriptor):
        raise error

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(error):
        runs.add(("max", 1), {"accuracy": 0.5, "seconds": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["runs.csv"]
    assert (tmp_path / "runs.csv").read_bytes() == before


def test_a_missing_measurement_is_not_written(tmp_path):
    with pytest.raises(KeyError, match="seconds"):
        runs_in(tmp_path).add(("max", 0), {"accuracy": 0.5})
    assert not (tmp_path / "runs.csv").exists()


def test_an_interrupted_experiment_does_only_the_runs_that_are_left(tmp_path, capsys):
    done = []

    def run(net, seed):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append((net, seed))
        return {"accuracy": 50 + seed, "seconds": 1}

    planned = [(net, seed) for seed in (0, 1) for net in ("none", "max")]
    with pytest.raises(KeyboardInterrupt):
        runs_in(tmp_path).complete(planned, run)
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("4 runs, 0 of them already in ")
    assert [line.partition("; about")[0] for line in out[1:]] == [
        "1/4: none 0: accuracy 50",
        "2/4: max 0: accuracy 50",
    ]
    done.clear()
    runs_in(tmp_path).complete(planned[:4:2] + planned[3:], run)
    assert done == [("none", 1), ("max", 1)]
    assert "3 runs, 1 of them already in" in capsys.readouterr().out
