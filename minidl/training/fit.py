"""`fit`: train, measure, warn, save and resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from minidl import nn
from minidl.checks import check_whole
from minidl.data import DataLoader
from minidl.distributed import World
from minidl.optim import Optimizer
from minidl.training.evaluation import Loss, check_loader
from minidl.training.history import History
from minidl.training.keeper import Keeper
from minidl.training.progress import Output, steps
from minidl.training.ranks import RankKeeper, RankRun, check_world
from minidl.training.replays import ReplayingRun
from minidl.training.run import Run, Schedule
from minidl.training.warnings import Diagnosis


def fit(
    model: nn.Module,
    loss: Loss,
    optimizer: Optimizer,
    train: DataLoader,
    validation: DataLoader | None = None,
    epochs: int = 1,
    *,
    schedule: Schedule | None = None,
    schedule_every: Literal["step", "epoch"] = "step",
    clip_norm: float | None = None,
    accumulate: int = 1,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    save_seconds: float = 60.0,
    resume: bool = True,
    callbacks: Sequence[Callable[[Run], object]] = (),
    progress: bool | None = None,
    world: World | None = None,
    capture: Literal["auto"] | bool = "auto",
) -> History:
    """Train a network, measure it after each epoch, and save it to disk.

    With a `checkpoint` folder, `last.npz` holds all that a run needs to resume: weights, optimiser,
    schedule, random streams, and the position in the loader's order. After a crash or Ctrl-C, the
    same call continues an unfinished run from there, with bit-identical results (on the same
    machine and library versions). A finished run, or one that was stopped by `patience` or a
    callback, starts over; a run that completed its epochs continues if `epochs` is now larger.
    `best.npz` holds the weights of the best epoch (see `History.best_epoch`), for `load_weights`;
    `history.csv` holds the history. If a finished run starts over, the old files are renamed to
    `best.previous.npz` and `history.previous.csv` after the first epoch. If the disk is full, `fit`
    warns and continues; the next save is complete again. The first Ctrl-C finishes the step, saves,
    and raises KeyboardInterrupt; a second one interrupts at once. SIGTERM, which clusters send to
    end jobs, also finishes the step and saves, and then ends the program with status 143.

    A checkpoint resumes only the run that saved it. If the data, seeds, loss, learning rates,
    schedule, transform, layers or the values that these use have changed, `fit` raises and the
    message says what has changed. If only the code of your own functions, the validation data or
    the initial weights have changed, it warns, because that may be intended. The location of files
    and options that nothing uses do not matter. While a run lasts, no other run, in this process or
    another, can use its folder.

    The loss of several batches, such as those of an epoch or an accumulated step, is that of one
    batch of all their examples. Means are weighted by their divisors, such as the number of labels
    that are not ignored or the sum of their class weights; sums are added. This holds for the
    losses of `minidl.functional`, also inside a function of your own; if it computes several means,
    the first one over the labels decides. Other losses are weighted by the number of examples: to
    average over fewer, write `mse_loss(x[kept], y[kept])`.

    Usual signs that training will not work give a `TrainingWarning`.

    With a `world` of several ranks, each trains on its share of every batch (see `DataLoader`), and
    the weights, losses and history are those of one process with the same batches, up to rounding
    and the random numbers of layers such as dropout. Rank 0 prints, warns and saves. Ctrl-C or
    SIGTERM on any rank ends all ranks after the same step; a callback that returns True on any rank
    ends them after that epoch. Callbacks run on every rank, so print, plot and write files only if
    `world.rank == 0`. A checkpoint resumes on any number of ranks. Batch norm without a world of
    its own normalises by the rank's share; running statistics are averaged before measuring and
    saving. The validation loader may have no world; each rank then measures all its batches.

    On a GPU, steps whose shapes repeat are recorded as a CUDA graph and replayed without Python,
    as by `minidl.capture`, if some timed steps are faster that way. The times are printed after the
    epoch, and callbacks find them in `run.step_ms`. Other shapes, accumulated steps and several
    ranks take ordinary steps. So do networks that change their own attributes or draw random
    numbers in Python, with a warning; other decisions made in Python, such as those by the clock,
    stay as recorded.

    Args:
        model: called with all of a batch's arrays but the last; ends with the last epoch's weights.
        loss: of the outputs and the last array; if that holds integers and the outputs are
            `(n, classes, ...)`, accuracy is measured, over labels that the loss does not ignore.
        optimizer: of the model's parameters.
        train: batches to train on.
        validation: batches to measure on: `validation_loss` and `validation_accuracy` in the
            history; they decide which epoch is best.
        epochs: passes over `train` in total, >= 1.
        schedule: its `step` is called after every step or epoch.
        schedule_every: which of the two.
        clip_norm: upper limit of the norm of all gradients together.
        accumulate: number of batches that make up one step, as if they were one.
        patience: stop after this many epochs in a row whose validation (else training) loss is no
            better than the best.
        checkpoint: a folder to save to, created if missing; None saves nothing.
        save_seconds: how often to save within an epoch, in addition to its end.
        resume: False starts over, whatever the folder holds.
        callbacks: called with the `Run` after each epoch; one that returns True ends the run.
        progress: False prints nothing; None prints a line per epoch, and shows a bar if somebody
            reads it, in a terminal or in a notebook; True always shows the bar.
        world: the ranks that train together, `distributed.world()`; None for this process alone.
        capture: on a GPU, "auto" replays steps where that is faster, True also where it is slower,
            and False never. On the CPU, nothing is replayed.

    Returns:
        The history, from the first epoch on.

    Raises:
        FloatingPointError: the loss or a gradient is NaN or infinite; the message names the first
            operation that produced one, and the rank; the last checkpoint stays as it was.
        ValueError: an argument is out of range, the checkpoint is damaged or another run's, or the
            ranks' arguments or weights differ.
        BlockingIOError: another run is using the folder; the message says which.
        KeyboardInterrupt: after Ctrl-C.
        SystemExit: after SIGTERM.

    Example:
        >>> import minidl
        >>> from minidl import data, functional, nn, optim
        >>> rng = minidl.manual_seed(0)
        >>> x = rng.normal(size=(64, 2)).astype("float32")
        >>> batches = data.DataLoader(x, (x[:, 0] > 0).astype(int), batch_size=8)
        >>> model = nn.Linear(2, 2)
        >>> adam = optim.Adam(model.parameters(), lr=0.1)
        >>> history = fit(model, functional.cross_entropy, adam, batches, epochs=3, progress=False)
        >>> history["train_accuracy"][-1] > 0.9
        True
    """
    check_whole("fit", 1, epochs=epochs, accumulate=accumulate)
    if patience is not None:
        check_whole("fit", 1, patience=patience)
    if schedule_every not in ("step", "epoch"):
        raise ValueError(f'fit: got schedule_every={schedule_every!r}, expected "step" or "epoch"')
    if capture not in ("auto", True, False):
        raise ValueError(f'fit: got capture={capture!r}, expected "auto", True or False')
    folder = None if checkpoint is None else Path(checkpoint).absolute()
    parts = (model, loss, optimizer, train, validation, schedule)
    run, keeper = _prepared(world, parts, folder, save_seconds, capture)
    run.every_step, run.clip_norm, run.accumulate = schedule_every == "step", clip_norm, accumulate
    run.progress = False if world is not None and world.rank else progress
    with keeper.running(run, epochs, resume):
        while run.history.epochs < epochs and not run.is_finished:
            for _ in steps(run, f"epoch {run.history.epochs + 1}/{epochs}"):
                keeper.save_if_due(run)
            run.end_epoch(patience, callbacks)
            keeper.save_epoch(run, is_last=run.is_finished or run.history.epochs >= epochs)
    return run.history


def _prepared(
    world: World | None,
    parts: tuple[Any, ...],
    folder: Path | None,
    save_seconds: float,
    capture: Literal["auto"] | bool,
) -> tuple[Run, Keeper]:
    """Return the run with these parts, and its keeper."""
    model, (train, validation) = parts[0], parts[3:5]
    for loader in (train, validation):
        check_loader("fit", loader)
    check_world(world, train, validation)
    run, keeper = Run(*parts), Keeper(folder, save_seconds)
    if world is not None and world.size > 1:
        run, keeper = RankRun(world, *parts), RankKeeper(world, folder, save_seconds)
    elif capture and any(p.backend.records for p in model.parameters()):
        run = ReplayingRun(*parts)
        run.is_timed = capture == "auto"
        if run.why_not and not run.is_timed:
            run.refuse(run.why_not)
    if world is None or world.size == 1:
        run.watch = Diagnosis(run)
    run.out = Output("stdout")
    return run, keeper
