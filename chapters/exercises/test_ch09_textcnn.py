"""Checks of the exercises for chapter 9."""

import numpy as np

NUMBERS = {"good": 2, "not": 3, "film": 4}


def test_encode_pads_after_the_sentence_and_marks_unknown_words(exercise):
    sentences = [["not", "good"], ["great"], ["not", "a", "film"]]
    hints = {
        "padding comes after the sentence, not before it": [[0, 3, 2], [0, 0, 1], [3, 1, 4]],
        "an unknown word has index 1; 0 is padding": [[3, 2, 0], [0, 0, 0], [3, 0, 4]],
        "do not drop unknown words: they have index 1": [[3, 2, 0], [0, 0, 0], [3, 4, 0]],
        "rows are as long as the longest sentence: do not cut words off": [[3], [1], [3]],
        "padding has index 0": [[3, 2, 1], [1, 1, 1], [3, 1, 4]],
    }
    usual = "a word that is not in `numbers` has index 1: numbers.get(word, 1)"
    expected = [[3, 2, 0], [1, 0, 0], [3, 1, 4]]
    exercise.expect("encode", sentences, NUMBERS, 2, expected=expected, hints=hints, usual=usual)


def test_encode_is_at_least_as_long_as_the_largest_filter(exercise):
    hints = {"a row has at least `shortest` indices: a filter of 4 words needs 4": [[3, 2]]}
    exercise.expect("encode", [["not", "good"]], NUMBERS, 4, expected=[[3, 2, 0, 0]], hints=hints)


def test_encode_returns_integers(exercise):
    exercise.expect("encode", [["good"], []], NUMBERS, 2, expected=[[2, 0], [0, 0]])
    got = exercise.call("encode", [["good"], []], NUMBERS, 2)
    usual = "an embedding looks up rows by integer index; np.zeros makes float64 by default"
    exercise.compare("the kind of encode's dtype", np.asarray(got).dtype.kind, "i", usual=usual)


def test_max_over_time_ignores_padding(exercise):
    features = np.array(
        [[[-2.0, -1.0, 5.0], [3.0, 1.0, 5.0]], [[1.0, 2.0, 3.0], [-3.0, -2.0, -1.0]]]
    )
    expected = [[-1.0, 3.0], [3.0, -1.0]]
    real = np.where([[[1, 1, 0]], [[1, 1, 1]]], features, -np.inf)
    hints = {
        "padding won: only the first lengths[i] positions of sentence i count": features.max(2),
        "0 beats negative responses: set the padding to -inf, which never wins": [[0, 3], [3, -1]],
        "do not start the maximum from 0: all responses may be negative": [[0, 3], [3, 0]],
        "take the maximum over time, axis 2, not over filters": real.max(1),
        "one position too few: lengths[i] positions are real": [[-2.0, 3.0], [2.0, -2.0]],
    }
    lengths = np.array([2, 3])
    exercise.expect("max_over_time", features, lengths, expected=expected, hints=hints)


def test_winning_phrases_are_the_words_under_the_response(exercise):
    words = ["not", "a", "good", "film"]
    expected = ["good film", "not a", "a good"]
    hints = {
        "that is only the first word: a response covers `size` words": ["good", "not", "a"],
        "one word too many: the word at index t + size is not included": [
            "good film",
            "not a good",
            "a good film",
        ],
        "response t is for the words that start at t, not end at t": ["a good", "not", "not a"],
        "that is the weakest response: argmax, not argmin": ["not a", "good film", "good film"],
        'one string per filter: " ".join(...)': [phrase.split() for phrase in expected],
        "the responses of one filter are in one row: axis 1": ["a good", "good film", "not a"],
    }
    responses = np.array([[0.1, 0.2, 0.9], [0.8, 0.2, 0.1], [0.3, 0.7, 0.2]])
    exercise.expect("winning_phrases", words, responses, 2, expected=expected, hints=hints)


def test_winning_phrases_of_another_size(exercise):
    hints = {"the phrase has `size` words, here 3": ["a good", "not a"]}
    words, responses = ["not", "a", "good", "film"], np.array([[0.1, 0.9], [0.5, 0.5]])
    expected = ["a good film", "not a good"]
    usual = "if responses are equal, the first wins"
    exercise.expect(
        "winning_phrases", words, responses, 3, expected=expected, hints=hints, usual=usual
    )
