"""Checks of the exercises for chapter 8."""

import numpy as np

NUMBERS = {"good": 2, "not": 3, "film": 4}


def test_encode_pads_behind_and_knows_the_unknown(exercise):
    sentences = [["not", "good"], ["great"], ["not", "a", "film"]]
    hints = {
        "padding stands behind the sentence, not before it": [[0, 3, 2], [0, 0, 1], [3, 1, 4]],
        "an unknown word is number 1; 0 is padding": [[3, 2, 0], [0, 0, 0], [3, 0, 4]],
        "an unknown word keeps its place, as number 1": [[3, 2, 0], [0, 0, 0], [3, 4, 0]],
        "rows are as long as the longest sentence: nothing is cut off": [[3], [1], [3]],
        "padding is number 0": [[3, 2, 1], [1, 1, 1], [3, 1, 4]],
    }
    usual = "a word that is not in `numbers` is unknown, number 1: numbers.get(word, 1)"
    wants = [[3, 2, 0], [1, 0, 0], [3, 1, 4]]
    exercise.expect("encode", sentences, NUMBERS, 2, wants=wants, hints=hints, usual=usual)


def test_encode_is_never_shorter_than_the_longest_filter(exercise):
    hints = {"at least `shortest` numbers in a row: a filter of 4 words needs 4": [[3, 2]]}
    exercise.expect("encode", [["not", "good"]], NUMBERS, 4, wants=[[3, 2, 0, 0]], hints=hints)


def test_encode_gives_whole_numbers(exercise):
    exercise.expect("encode", [["good"], []], NUMBERS, 2, wants=[[2, 0], [0, 0]])
    got = exercise.call("encode", [["good"], []], NUMBERS, 2)
    usual = "an embedding looks rows up, by whole numbers; np.zeros makes float64 unless told"
    exercise.compare("the kind of encode's numbers", np.asarray(got).dtype.kind, "i", usual=usual)


def test_max_over_time_does_not_let_padding_win(exercise):
    features = np.array(
        [[[-2.0, -1.0, 5.0], [3.0, 1.0, 5.0]], [[1.0, 2.0, 3.0], [-3.0, -2.0, -1.0]]]
    )
    wants = [[-1.0, 3.0], [3.0, -1.0]]
    real = np.where([[[1, 1, 0]], [[1, 1, 1]]], features, -np.inf)
    hints = {
        "padding won: only the first lengths[i] places of sentence i count": features.max(2),
        "0 beats responses below 0: give the padding -inf, which never wins": [[0, 3], [3, -1]],
        "a search for the largest cannot start from 0: all may be below": [[0, 3], [3, 0]],
        "the maximum goes over time, axis 2, not over filters": real.max(1),
        "one place too few: lengths[i] places are real": [[-2.0, 3.0], [2.0, -2.0]],
    }
    lengths = np.array([2, 3])
    exercise.expect("max_over_time", features, lengths, wants=wants, hints=hints)


def test_winning_phrases_are_the_words_under_the_response(exercise):
    words = ["not", "a", "good", "film"]
    wants = ["good film", "not a", "a good"]
    hints = {
        "that is the first word alone: a response covers `size` words": ["good", "not", "a"],
        "one word too many: up to, not with, number t + size": [
            "good film",
            "not a good",
            "a good film",
        ],
        "the response t is to the words from t on, not up to t": ["a good", "not", "not a"],
        "where the response is weakest: argmax, not argmin": ["not a", "good film", "good film"],
        'a string for each filter: " ".join(...)': [phrase.split() for phrase in wants],
        "the responses of one filter are a row: axis 1": ["a good", "good film", "not a"],
    }
    responses = np.array([[0.1, 0.2, 0.9], [0.8, 0.2, 0.1], [0.3, 0.7, 0.2]])
    exercise.expect("winning_phrases", words, responses, 2, wants=wants, hints=hints)


def test_winning_phrases_of_another_size(exercise):
    hints = {"the phrase has `size` words, here 3": ["a good", "not a"]}
    words, responses = ["not", "a", "good", "film"], np.array([[0.1, 0.9], [0.5, 0.5]])
    wants = ["a good film", "not a good"]
    usual = "of equal responses, the first wins"
    exercise.expect("winning_phrases", words, responses, 3, wants=wants, hints=hints, usual=usual)
