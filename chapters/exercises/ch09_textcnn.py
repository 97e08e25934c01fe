"""Exercises for chapter 9: TextCNN.

Install the `test` extra first: `pip install -e '.[test]'`, the README's second command. Fill in the
functions; then

    python -m pytest chapters/exercises -k ch09

tells you which answers are right and which are not there yet. Difficulty: 1 takes a few lines, 2
some thought, 3 pencil and paper. The answers, with the reasons, are in
chapters/solutions/ch09_textcnn.py, with those to the two questions at the end.
"""


def encode(sentences, numbers, shortest):
    """Return sentences as one integer array, one sentence per row.

    `sentences` are lists of words; `numbers` is a dict from words to their indices, all >= 2. A
    word that is not in it is unknown and has index 1. Rows are padded with 0 after the sentence to
    the length of the longest sentence, and at least to `shortest`: a filter of 5 words needs 5.

    By hand: with numbers {"good": 2, "not": 3} and shortest 2, the sentences "not good" and
    "great" become [[3, 2], [1, 0]].

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


def max_over_time(features, lengths):
    """Return each filter's strongest response in each sentence, ignoring the padding.

    In NumPy: features are (n, filters, time), lengths (n,): sentence i has lengths[i] >= 1
    positions; the rest is padding. The result is (n, filters).

    By hand: for the features [[-2, -1, 5]] with length 2, the strongest response is -1.

    Difficulty: 2 of 3.
    """
    raise NotImplementedError


def winning_phrases(words, responses, size):
    """Return, for each filter, the words under its strongest response, as a list of strings.

    `words` is a sentence as a list. `responses` are (filters, len(words) - size + 1): response t of
    a filter is for the `size` words that start at index t. Join words with spaces; if responses
    are equal, the first wins.

    By hand: for "not a good film" with size 2, the responses [0.1, 0.9, 0.3] give "a good".

    Difficulty: 1 of 3.
    """
    raise NotImplementedError


# Predict, then run: Shuffle the words of a sentence. Which results of a maximum over time can
# change for filters over one word, and which for filters over three?
#
# Change this and explain: Set the chapter's filter sizes to single words, `SIZES = (1,)`. Which of
# the two baselines does the network come close to, and why?
