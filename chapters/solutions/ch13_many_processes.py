"""Answers to the exercises for chapter 13."""


# Why: A mean times its count is a sum; sums add up, and so do counts. The mean of a rank without
# examples is left out, because 0 times NaN is NaN. With equal counts this is the mean of means.
def whole_mean(means, counts):
    parts = [(m * n, n) for m, n in zip(means, counts, strict=True) if n]
    return sum(part for part, _ in parts) / sum(n for _, n in parts)


# Why: In every step, a rank sends the piece that it has just received: rank r sends piece r first,
# and then the piece that rank r - 1 sent in the step before, hence r - step. After p - 1 steps,
# piece r has been on every rank; the last one, rank r - 1, now has its complete sum and sends it
# on. So the same rule serves both halves.
def ring_pieces(p):
    return [[(rank - step) % p for rank in range(p)] for step in range(2 * (p - 1))]


# Why: Try all numbers: `min` returns the first of equal ones. Work falls like 1 / p while
# latency grows like p, so the best number grows only like the square root of work / latency.
def best_ranks(work, latency, transfer, most):
    def milliseconds(p):
        return work / p + 2 * (p - 1) * (latency + transfer / p)

    return min(range(1, most + 1), key=milliseconds)


# Predict, then run. One: two ranks save 50 ms of work, and lose 2 (1 + 30) = 62. With 1,000 ms of
# work, the sums cost the same, so 21 ranks are best: a step takes 202 ms instead of 1,000. That is
# why large batches scale well, as long as they train well.
#
# Change this and explain. Half an epoch is four steps: the rate grows 16-fold before the network
# has left its start. With two seeds, the accuracy fell to 28 and 61 %, from 71 and 75 % with two
# epochs: how badly it fails is a matter of chance. With four epochs it rose to 73 and 81 %: the
# highest rates came later, and were lower, since the decay goes on meanwhile.
