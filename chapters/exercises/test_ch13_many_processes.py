"""Checks of the exercises for chapter 13."""

import math


def test_whole_mean_by_hand(exercise):
    hints = {
        "that is the mean of means: weight each mean by its number of examples": 3.5,
        "that is the sum over all examples: divide by their number": 9.0,
        "divide by the number of examples, not of ranks": 4.5,
    }
    exercise.expect("whole_mean", (2.0, 5.0), (2, 1), expected=3.0, hints=hints)


def test_whole_mean_leaves_out_ranks_without_examples(exercise):
    usual = "0 times NaN is NaN: leave out ranks without examples"
    means, counts = (math.nan, 4.0, 1.0), (0, 3, 1)
    exercise.expect("whole_mean", means, counts, expected=3.25, usual=usual)


def passed(steps, p):
    """Return what each of p ranks has after these steps; rank r begins with pieces of 10 ** r."""
    pieces = [[10**rank] * p for rank in range(p)]
    for number, sent in enumerate(steps):
        arriving = [pieces[rank][sent[rank]] for rank in range(p)]
        for rank, piece in enumerate(sent):
            kept = pieces[(rank + 1) % p]
            kept[piece] = arriving[rank] + (kept[piece] if number < p - 1 else 0)
    return pieces


def steps_of(p, piece):
    """Return the steps that follow from a rule for the piece of a rank in a step."""
    return [[piece(rank, step) % p for rank in range(p)] for step in range(2 * (p - 1))]


def check_pieces(exercise, p):
    steps = exercise.call("ring_pieces", p)
    hints = {
        "the second half is missing, in which the complete sums go round": p - 1,
        "each half has one step fewer than there are ranks": 2 * p,
    }
    exercise.compare(f"the number of steps in ring_pieces({p})", len(steps), 2 * (p - 1), hints)
    numbers = [[piece in range(p) for piece in sent] for sent in steps]
    usual = "pieces are numbered from 0 to p - 1, and every rank sends one: use % p"
    said = f"which numbers of ring_pieces({p}) are pieces"
    exercise.compare(said, numbers, [[True] * p] * len(steps), usual=usual)
    hints = {
        "a rank sends its own piece in every step: pass on the piece that has arrived": passed(
            steps_of(p, lambda rank, step: rank), p
        ),
        "all ranks send the same piece: the pieces must differ": passed(
            steps_of(p, lambda rank, step: step), p
        ),
        "the direction is wrong: rank r must send the piece that rank r - 1 sent before": passed(
            steps_of(p, lambda rank, step: rank + step), p
        ),
        "the first half is right; the second begins with the piece whose sum is complete": passed(
            steps_of(p, lambda rank, step: rank - step % (p - 1)), p
        ),
    }
    said = f"the pieces of each rank after ring_pieces({p}), where rank r began with 10 ** r"
    usual = "follow piece 0: it must visit all ranks in the first half, and again in the second"
    total = int("1" * p)
    exercise.compare(said, passed(steps, p), [[total] * p for _ in range(p)], hints, usual)


def test_ring_pieces_of_two_ranks(exercise):
    check_pieces(exercise, 2)


def test_ring_pieces_of_several_ranks(exercise):
    check_pieces(exercise, 3)
    check_pieces(exercise, 5)


def test_best_ranks_by_hand(exercise):
    hints = {
        "that is the time: return the number of ranks that takes it": 100 / 7 + 12,
        "ranks are counted from 1": 6,
        "the work is shared out: divide it by p": 1,
        "the sums take time too: add 2 (p - 1) times the latency": 4096,
        "latency counts twice: pieces go round once to be added, once to be passed on": 10,
    }
    exercise.expect("best_ranks", 100.0, 1.0, 0.0, 4096, expected=7, hints=hints)


def test_best_ranks_counts_the_transfer(exercise):
    hints = {"the transfer counts too, 2 (p - 1) / p times": 22}
    exercise.expect("best_ranks", 100.0, 0.1, 20.0, 4096, expected=17, hints=hints)
    hints = {"one rank takes 100 ms, two take 112: try 1 as well": 2}
    exercise.expect("best_ranks", 100.0, 1.0, 60.0, 4096, expected=1, hints=hints)


def test_best_ranks_at_most(exercise):
    usual = "try 1, 2, ... up to `most`, this one included"
    exercise.expect("best_ranks", 100.0, 1.0, 0.0, 4, expected=4, usual=usual)
    usual = "6 and 7 ranks take equally long here: return the smallest"
    exercise.expect("best_ranks", 84.0, 1.0, 0.0, 10, expected=6, usual=usual)
