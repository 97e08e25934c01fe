"""Exercises for chapter 8: TextCNN.

Fill in the functions; then

    python -m pytest chapters/exercises -k ch08

says what is right and what is not yet. Answers: chapters/solutions/ch08_textcnn.py.
"""


def encode(sentences, numbers, shortest):
    """Return sentences as one array of whole numbers, a sentence in each row.

    sentences are lists of words, `numbers` a dict from words to their numbers, from 2 on. A word
    that is not in it is unknown, number 1. Rows are filled up behind the sentence with padding,
    number 0, to the length of the longest sentence, and at least to `shortest`: a filter of 5 words
    cannot look at fewer.

    By hand: with numbers {"good": 2, "not": 3} and shortest 2, the sentences "not good" and
    "great" are [[3, 2], [1, 0]].
    """
    raise NotImplementedError


def max_over_time(features, lengths):
    """Return each filter's strongest response in each sentence, where padding must not win.

    In NumPy: features are (n, filters, time), lengths (n,): sentence i has lengths[i] places, at
    least one; what stands behind them is padding. The result is (n, filters).

    By hand: of the features [[-2, -1, 5]] with length 2, the strongest is -1.
    """
    raise NotImplementedError


def winning_phrases(words, responses, size):
    """Return, for each filter, the words under its strongest response, as a list of strings.

    words is a sentence as a list, responses (filters, len(words) - size + 1): number t of a filter
    is its response to the `size` words from t on. Words are joined by spaces; of equal
    responses the first wins.

    By hand: of "not a good film" with size 2, the responses [0.1, 0.9, 0.3] give "a good".
    """
    raise NotImplementedError
