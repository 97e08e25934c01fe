"""Sentences to arrays: tokens, vocabularies, padding and buckets."""

from __future__ import annotations

import json
import os
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minidl.data import BucketLoader, Vocabulary, tokenize

SENTENCES = [["a", "good", "film"], ["a", "bad", "film"], ["a", "film"]]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        (" \t\n", []),
        ("It's GREAT!", ["it", "'s", "great", "!"]),
        ("don't can't won't isn't", ["do", "n't", "ca", "n't", "wo", "n't", "is", "n't"]),
        ("they\N{RIGHT SINGLE QUOTATION MARK}re I'll we've he'd", "they 're i 'll we 've he 'd"),
        ("rock'n'roll", ["rock", "'", "n", "'", "roll"]),
        ("well-made, (3.5 of 1,000)...", "well - made , ( 3.5 of 1,000 ) ..."),
        ("the 3rd of 21st, 4x4", "the 3rd of 21st , 4x4"),
        ("ÜBER naïve Straße", ["über", "naïve", "straße"]),
        ("cafe\N{COMBINING ACUTE ACCENT}", ["café"]),
        ("यह फिल्म अच्छी है।", ["यह", "फिल्म", "अच्छी", "है", "।"]),
        ("👍👍 хорошо", ["👍", "👍", "хорошо"]),
        ("<pad>", ["<", "pad", ">"]),  # nobody writes padding
    ],
)
def test_a_text_is_cut_into_tokens(text, tokens):
    assert tokenize(text) == (tokens.split() if isinstance(tokens, str) else tokens)


@given(st.text())
def test_no_character_but_blanks_is_lost(text):
    plain = (
        unicodedata.normalize("NFC", text).lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    )
    assert "".join(tokenize(text)) == "".join(plain.split())


def test_tokens_of_what_is_no_text_are_refused():
    with pytest.raises(TypeError, match="tokenize: got a bytes, expected a string"):
        tokenize(b"good")


def test_a_vocabulary_has_the_most_frequent_words_first():
    vocabulary = Vocabulary.build(SENTENCES)
    assert vocabulary.words == ["<pad>", "<unk>", "a", "film", "bad", "good"]
    assert ("film" in vocabulary, "dull" in vocabulary, len(vocabulary)) == (True, False, 6)
    assert Vocabulary.build(SENTENCES, min_count=2).words[2:] == ["a", "film"]
    assert Vocabulary.build(SENTENCES, max_size=3).words[2:] == ["a"]
    assert len(Vocabulary.build([])) == 2


def test_sentences_are_filled_up_to_the_longest():
    vocabulary = Vocabulary.build(SENTENCES)
    words = vocabulary.encode([["a", "film"], [], ["dull", "dull", "dull"]], ending=2)
    assert words.dtype == np.int64
    assert words.tolist() == [[2, 3, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert vocabulary.encode([[]]).tolist() == [[0]]
    assert vocabulary.encode([]).shape == (0, 1)
    assert vocabulary.decode(words[0]) == ["a", "film"]


@given(st.lists(st.lists(st.sampled_from(["a", "film", "bad", "good"]), max_size=5), min_size=1))
def test_encoding_loses_nothing_of_known_words(sentences):
    vocabulary = Vocabulary.build(SENTENCES)
    assert [vocabulary.decode(row) for row in vocabulary.encode(sentences)] == sentences


def test_a_vocabulary_survives_the_disk(tmp_path):
    vocabulary = Vocabulary.build([["naïve", "\N{LINE SEPARATOR}", '"', "फिल्म"]])
    path = vocabulary.save(tmp_path / "new" / "vocabulary.json")
    assert Vocabulary.load(path).words == vocabulary.words
    assert [file.name for file in path.parent.iterdir()] == ["vocabulary.json"]


@given(st.lists(st.text(st.characters(exclude_categories=()), min_size=1), unique=True))
def test_any_word_survives_the_disk(tmp_path_factory, words):
    assume(not any(re.search("[\ud800-\udbff][\udc00-\udfff]", word) for word in words))
    assume(not {"<pad>", "<unk>"} & set(words))
    path = Vocabulary(words).save(tmp_path_factory.mktemp("words") / "vocabulary.json")
    assert Vocabulary.load(path).words[2:] == words
    path.read_text("utf-8")  # for other programs, too


def test_half_an_emoji_survives_the_disk(tmp_path):
    vocabulary = Vocabulary.build([tokenize("nice film \ud83d"), tokenize("\ude00 हाँ")])
    path = vocabulary.save(tmp_path / "vocabulary.json")
    assert Vocabulary.load(path).words == vocabulary.words
    assert "हाँ" in path.read_text("utf-8")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_vocabulary_that_an_editor_saved_again_is_read(encoding, tmp_path):
    path = Vocabulary(["naïve"]).save(tmp_path / "vocabulary.json")
    path.write_bytes(path.read_text("utf-8").encode(encoding))
    assert Vocabulary.load(path).words[2:] == ["naïve"]


def test_special_words_in_a_corpus_keep_their_indices():
    corpus = [["the", "<unk>", "film", "<pad>"], ["<unk>", "<unk>", "film", "<pad>"]]
    vocabulary = Vocabulary.build(corpus)
    assert vocabulary.words == ["<pad>", "<unk>", "film", "the"]
    assert vocabulary.encode(corpus).tolist() == [[3, 1, 2, 0], [1, 1, 2, 0]]
    assert Vocabulary.build(corpus, max_size=3).words[2:] == ["film"]
    assert Vocabulary.build(corpus, min_count=2).words[2:] == ["film"]


def test_a_vocabulary_that_cannot_be_written_leaves_nothing_half_written(tmp_path, monkeypatch):
    path = Vocabulary(["old"]).save(tmp_path / "vocabulary.json")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        Vocabulary(["new"]).save(path)
    assert Vocabulary.load(path).words[2:] == ["old"]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"words": 3}',
        '{"words": ["a"]}',
        '{"words": ["<pad>","<unk>","a","a"]}',
        "[" * 100_000,
    ],
)
def test_a_damaged_vocabulary_is_refused(content, tmp_path):
    path = tmp_path / "vocabulary.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"Vocabulary.load: .*vocabulary.json is not a vocabulary"):
        Vocabulary.load(path)
    path.write_text(json.dumps({"words": ["<pad>", "<unk>", 5]}))
    with pytest.raises(ValueError, match="got 5 among the words, expected strings"):
        Vocabulary.load(path)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Vocabulary(["a", "a"]), ValueError, "got 'a' more than once"),
        (lambda: Vocabulary(["<unk>"]), ValueError, "got '<unk>' more than once"),
        (
            lambda: Vocabulary.build(["a film"]),
            TypeError,
            "got the string 'a film', expected a list",
        ),
        (lambda: Vocabulary.build(SENTENCES, min_count=0), ValueError, "got min_count=0"),
        (
            lambda: Vocabulary.build(SENTENCES, max_size=1),
            ValueError,
            "max_size=1, expected min_count >= 1",
        ),
        (lambda: Vocabulary([]).encode(["film"]), TypeError, "got the string 'film'.*tokenize"),
        (
            lambda: Vocabulary([]).decode([0, 2]),
            IndexError,
            "got index 2, expected 0 <= index <= 1; is it",
        ),
        (lambda: Vocabulary([]).decode([-1]), IndexError, "got index -1, expected 0 <= index <= 1"),
    ],
)
def test_what_is_no_vocabulary_or_sentence_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def lengths_of(batches) -> list[list[int]]:
    return [(words.numpy() != 0).sum(1).tolist() for words, _ in batches]


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 4), st.booleans(), st.integers(0, 3))
def test_buckets_hold_every_sentence_once_and_are_cut(count, size, pool, drop_last, ending):
    rng = np.random.default_rng(count)
    lengths = rng.integers(0, 9, count)
    words = (np.arange(12) < lengths[:, None]) * np.arange(1, count + 1)[:, None]
    options = {"batch_size": size, "pool": pool, "drop_last": drop_last, "ending": ending}
    loader = BucketLoader(words, np.arange(count), shuffle=True, rng=rng, **options)
    seen = []
    for batch, labels in loader:
        assert batch.shape[1] == max(1, (batch.numpy() != 0).sum(1).max() + ending)
        assert np.array_equal(batch.numpy(), words[labels.numpy()][:, : batch.shape[1]])
        seen += labels.numpy().tolist()
    whole = count // size * size if drop_last else count
    assert len(seen) == len(set(seen)) == whole


def test_buckets_mix_lengths_less_than_chance_and_differ_from_pass_to_pass():
    rng = np.random.default_rng(0)
    words = (np.arange(40) < rng.integers(1, 40, (1000, 1))).astype(np.int64)
    buckets = BucketLoader(words, np.arange(1000), batch_size=20, shuffle=True, rng=rng)
    spreads = [max(found) - min(found) for found in lengths_of(buckets)]
    assert np.mean(spreads) < 3  # 36 by chance
    orders = [[y.numpy().tolist() for _, y in buckets] for _ in range(2)]
    assert orders[0] != orders[1]
    means = [np.mean(found) for found in lengths_of(buckets)]
    assert means != sorted(means)
    plain = BucketLoader(words, np.arange(1000), batch_size=20)
    assert np.concatenate([y.numpy() for _, y in plain]).tolist() == list(range(1000))


def test_a_pass_over_buckets_can_be_taken_up_again():
    words = (np.arange(9) < np.arange(60)[:, None] % 9).astype(np.int64)

    def loader():
        rng = np.random.default_rng(3)
        return BucketLoader(words, np.arange(60), batch_size=7, shuffle=True, rng=rng)

    wanted = [labels.numpy().tolist() for _, labels in loader()]
    stopped = loader()
    batches = iter(stopped)
    for _ in range(4):
        next(batches)
    again = loader()
    again.load_state_dict(stopped.state_dict())
    assert [labels.numpy().tolist() for _, labels in again] == wanted[4:]


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (np.zeros((2, 3)), {}, r"got words of float64 and shape \(2, 3\), expected integers"),
        (np.zeros(2, int), {}, r"shape \(2,\), expected integers of shape \(n, length\)"),
        (np.zeros((2, 3), int), {"ending": -1}, "got ending=-1"),
        (np.zeros((2, 3), int), {"pool": 0}, "pool=0, expected ending >= 0, pool >= 1"),
    ],
)
def test_buckets_of_what_is_no_sentences_are_refused(words, options, message):
    with pytest.raises(ValueError, match=f"BucketLoader: .*{message}"):
        BucketLoader(words, np.zeros(2, int), **options)


def test_many_marks_on_one_letter_take_linear_time():
    text = "a" + "\N{COMBINING GRAVE ACCENT}\N{COMBINING GRAVE ACCENT BELOW}" * 100_000
    assert len(tokenize(text)) == 1
    wide = "a" + "\N{MUSICAL SYMBOL COMBINING STEM}\N{MUSICAL SYMBOL COMBINING FLAG-1}" * 100_000
    assert tokenize(wide)[0] == "a"


def test_long_texts_are_cut_like_short_ones():
    short = "cafe\N{COMBINING ACUTE ACCENT} \u1112\u1161\u11ab यह फिल्म " * 5
    assert tokenize(short * 100) == tokenize(short) * 100


@pytest.mark.parametrize(
    "words", ["[" * 900 + "]" * 900, "[2]", '{"<pad>": 1}', "[" + "1," * 100_000 + "1]"]
)
def test_words_that_are_none_are_named_in_short(words, tmp_path):
    path = tmp_path / "vocabulary.json"
    for content in (words, '["<pad>", "<unk>", ' + words + "]"):
        path.write_text('{"words": ' + content + "}")
        with pytest.raises(ValueError, match=r"vocabulary\.json is not a vocabulary") as caught:
            Vocabulary.load(path)
        assert len(str(caught.value)) < 400


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_vocabulary_that_is_a_fifo_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "v.json")
    with pytest.raises(ValueError, match="got a FIFO, expected a regular file"):
        Vocabulary.load(tmp_path / "v.json")
