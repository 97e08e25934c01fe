"""Trainings and experiments of chapters that are interrupted: `Chapter.interruptible`, `Runs`."""

import pytest

from minidl.chapter import Chapter


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
