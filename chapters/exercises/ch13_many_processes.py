"""Exercises for chapter 13: many processes.

Install the `test` extra first: `pip install -e '.[test]'`, the README's second command. Fill in the
functions, which need no MPI; then

    python -m pytest chapters/exercises -k ch13

tells you which answers are right and which are not there yet. Difficulty: 1 takes a few lines, 2
some thought, 3 pencil and paper. The answers, with the reasons, are in
chapters/solutions/ch13_many_processes.py, with those to the two questions at the end.
"""


def whole_mean(means, counts):
    """Return the mean over all examples, from the ranks' means over their own examples.

    `means` and `counts` have one number for each rank. A rank without examples has count 0, and its
    mean is NaN (0 / 0). At least one rank has examples.

    By hand: 2 examples with mean 2, and 1 example with mean 5: (2 + 2 + 5) / 3 = 3.

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


def ring_pieces(p):
    """Return which piece each of p ranks sends to the next one, in each step of a ring all-reduce.

    Every rank cuts its array into pieces 0 to p - 1. In each step, rank r sends one piece to rank
    r + 1, and rank p - 1 sends one to rank 0, all at the same time. In the first p - 1 steps, the
    receiver adds what it gets to its own piece of that number, so that in the end every rank has
    the complete sum of one piece. In the other p - 1 steps, the receiver replaces its piece by the
    one that arrives, so that the complete sums go round.

    The result is a list of 2 (p - 1) lists, one for each step, each with p numbers: the piece that
    rank 0 sends, that rank 1 sends, and so on.

    By hand, p = 2: first, rank 0 sends piece 0 and rank 1 piece 1; then each sends the other piece,
    whose sum it now has. So [[0, 1], [1, 0]].

    Difficulty: 3 of 3.
    """
    raise NotImplementedError


def best_ranks(work, latency, transfer, most):
    """Return the number of ranks, 1 to `most`, with which a training step takes the least time.

    Strong scaling: p ranks share the work, and then add up their gradients around a ring. In
    milliseconds, a step takes

        work / p + 2 (p - 1) (latency + transfer / p)

    If several numbers of ranks take equally long, return the smallest.

    By hand, work 100, latency 1, transfer 0: 7 ranks take 14.3 + 12 = 26.3 ms, 6 and 8 take more.

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


# Predict, then run: With 100 ms of work, a latency of 1 ms and a transfer of 60 ms, how many ranks
# are best? And with 10 times as much work, as in a batch of 10 times as many images?
#
# Change this and explain: In the chapter's `accuracy`, let the warm-up take half an epoch instead
# of two, then four. How does the accuracy with 512 images change, and why?
