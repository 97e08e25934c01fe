"""Exercises for chapter 16: sequences.

Install the `test` extra first: `pip install -e '.[test]'`, the README's second command. Fill in the
functions; then

    python -m pytest chapters/exercises -k ch16

tells you which answers are right and which are not there yet. Difficulty: 1 takes a few lines, 2
some thought, 3 pencil and paper. The answers, with the reasons, are in
chapters/solutions/ch16_sequences.py, with those to the two questions at the end.
"""


def attend(queries, keys, values, mask):
    """Return, for each query, the average of the values, weighted by attention.

    In NumPy: queries are (l, e), keys (s, e), values (s, d), the result (l, d). The weights of a
    query are the softmax, over keys, of its products with the keys divided by the root of e. `mask`
    is (l, s), True where a query may attend to a key; every query may attend to at least one.

    By hand: a query of zeros with the values [[1.0], [3.0]] and no key masked gives [2.0].

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


def masked_mean(states, lengths):
    """Return the mean over time of each sentence, ignoring the padding.

    In NumPy: states are (n, length, c), lengths (n,): sentence i has lengths[i] >= 1 words; the
    rest is padding. The result is (n, c).

    By hand: the states [[[1.0], [3.0], [9.0]]] with length 2 have the mean [[2.0]].

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


def gru_step(x, h, w, u):
    """Return the next state of a gated recurrent unit without biases.

    In NumPy: x is (features,), h (size,), w (3 * size, features), u (3 * size, size). The rows of w
    and u belong to r, z and n, in this order:

        r = sigmoid(w_r x + u_r h)    z = sigmoid(w_z x + u_z h)    n = tanh(w_n x + r * (u_n h))

    The new state is (1 - z) * n + z * h.

    By hand: with w and u all zeros, r = z = 0.5 and n = 0, so h = [4.0] becomes [2.0].

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


# Predict, then run: Shuffle the words of a sentence. Does the mean over time of a Transformer
# without positions change? Of a GRU?
#
# Change this and explain: Remove the positions from the chapter's Transformer. Which row of the
# table does it come to?
