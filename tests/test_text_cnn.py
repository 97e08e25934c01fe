"""TextCNN against literal loops and PyTorch; what it refuses; why it said what it said."""

from __future__ import annotations

import numpy as np
import pytest

import minidl
from minidl import Tensor, optim
from minidl import functional as F
from minidl.data import Vocabulary
from minidl.inspect import sentences
from minidl.models import BagOfWords, SentenceClassifier, TextCNN
from minidl.training import save_weights

WORDS = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 0, 0, 0]])


def small(**options) -> TextCNN:
    rng = np.random.default_rng(0)
    model = TextCNN(10, 4, 3, (2, 3), 2, rng=rng, **options).to(dtype="float64")
    for conv in model.convs:  # not all positive, not all alike
        conv.bias.data = rng.normal(size=3)
    return model.eval()


def by_hand(model: TextCNN, words: np.ndarray, pool=max) -> np.ndarray:
    """Compute the logits one number at a time."""
    state = model.state_dict()
    rows = []
    for sentence in words:
        vectors, found = state["embedding.weight"][sentence], []
        for number, size in enumerate(model.filter_sizes):
            for kernel, bias in zip(
                state[f"convs.{number}.weight"], state[f"convs.{number}.bias"], strict=True
            ):
                responses = [
                    max(0.0, bias + sum((vectors[p + i] * kernel[0, i]).sum() for i in range(size)))
                    for p in range(len(sentence) - size + 1)
                ]
                found.append(pool(responses))
        rows.append(state["fc.weight"] @ np.array(found) + state["fc.bias"])
    return np.array(rows)


@pytest.mark.parametrize(("pooling", "pool"), [("max", max), ("average", np.mean)])
def test_logits_are_those_of_literal_loops(pooling, pool):
    model = small(pooling=pooling)
    np.testing.assert_allclose(model(WORDS).numpy(), by_hand(model, WORDS, pool), atol=1e-12)


def test_names_and_shapes_of_the_state():
    shapes = {name: array.shape for name, array in TextCNN(20).state_dict().items()}
    assert list(shapes.items()) == [
        ("embedding.weight", (20, 128)),
        ("convs.0.weight", (100, 1, 3, 128)),
        ("convs.0.bias", (100,)),
        ("convs.1.weight", (100, 1, 4, 128)),
        ("convs.1.bias", (100,)),
        ("convs.2.weight", (100, 1, 5, 128)),
        ("convs.2.bias", (100,)),
        ("fc.weight", (2, 300)),
        ("fc.bias", (2,)),
    ]


def test_vectors_start_small_and_padding_as_zeros():
    weight = TextCNN(500).embedding.weight.numpy()
    assert not weight[0].any()
    assert 0.24 < np.abs(weight[1:]).max() <= 0.25
    assert TextCNN(5, padding_idx=None).embedding.weight.numpy()[0].any()


def test_sentences_shorter_than_the_largest_filter_are_padded(device):
    model = small()
    padded = np.array([[7, 0, 0], [8, 0, 0]])
    model.to(device)
    words = Tensor(padded[:, :1], device=device)
    np.testing.assert_allclose(model(words).numpy(), by_hand(model, padded), atol=1e-12)
    empty = Tensor(np.zeros((2, 0), np.int64), device=device)
    wanted = by_hand(model, np.zeros((2, 3), np.int64))
    np.testing.assert_allclose(model(empty).numpy(), wanted, atol=1e-12)


def test_with_an_ending_the_answer_does_not_depend_on_what_else_is_in_the_batch():
    model = small()
    one, two, three = (np.array([[3, 1] + [0] * n]) for n in (3, 4, 20))
    np.testing.assert_allclose(model(one).numpy(), model(two).numpy(), atol=1e-12)
    np.testing.assert_allclose(model(one).numpy(), model(three).numpy(), atol=1e-12)


def test_padding_is_never_trained_and_unknown_words_are():
    model = TextCNN(6, 4, 3, (2,))
    adam = optim.Adam(model.parameters(), lr=0.1)
    before = model.embedding.weight.numpy()
    for _ in range(3):
        adam.zero_grad()
        F.cross_entropy(model([[1, 1, 0, 0], [1, 0, 0, 0]]), np.array([0, 1])).backward()
        adam.step()
    moved = (model.embedding.weight.numpy() != before).any(1)
    assert moved.tolist() == [False, True, False, False, False, False]


def test_rows_and_whole_gradients_give_the_same_first_step():
    found = []
    for sparse in (False, True):
        model = TextCNN(30, 8, 4, sparse=sparse, dropout=0.0, rng=np.random.default_rng(0))
        adam = optim.Adam(model.parameters())
        F.cross_entropy(model(WORDS), np.array([0, 1])).backward()
        adam.step()
        found.append(model.state_dict())
    for name, array in found[0].items():
        np.testing.assert_allclose(array, found[1][name], atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: small()(WORDS[0]),
            r"got words of shape \(6,\), expected sentences \(n, length\); put",
        ),
        (lambda: small()([[0, 10, 1]]), "got indices from 0 to 10 for a weight of shape .10, 4."),
        (lambda: small()([[-1, 2, 1]]), "got indices from -1 to 2"),
        (
            lambda: small(padding_idx=None)([[1]]),
            "sentences of 1 words, expected at least 3 .*, or a p",
        ),
        (lambda: TextCNN(10, filter_sizes=()), "TextCNN: got no filter_sizes"),
        (lambda: TextCNN(10, filter_sizes=(3, 0)), "TextCNN: got filter_size=0"),
        (lambda: TextCNN(0), "Embedding: got num_embeddings=0"),
        (lambda: TextCNN(10, num_filters=0), "TextCNN: got num_filters=0"),
        (lambda: TextCNN(10, dropout=1.5), "Dropout: got p=1.5"),
        (
            lambda: TextCNN(10, pooling="min"),
            'TextCNN: got pooling=.min., expected "max" or "average"',
        ),
    ],
)
def test_what_cannot_be_read_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Why it said what it said


def test_votes_add_up_to_the_lead_of_each_class():
    model = small()
    parts = sentences.votes(model, Tensor(WORDS))
    total = sum(part.values.sum(1) for part in parts)
    logits = model(WORDS).numpy() - model.fc.bias.numpy()
    np.testing.assert_allclose(total, logits - logits.mean(1, keepdims=True), atol=1e-12)
    assert [part.size for part in parts] == [2, 3]
    responses = model.responses(model.embedding(WORDS))
    for part, found in zip(parts, responses, strict=True):
        assert np.array_equal(part.places, found.numpy().argmax(2))
    for label in (0, 1):
        shared = sentences.word_votes(model, Tensor(WORDS), label)
        np.testing.assert_allclose(shared.sum(1), total[:, label], atol=1e-12)
        assert shared.shape == WORDS.shape
    with pytest.raises(
        ValueError, match="votes: got a TextCNN with pooling='average', expected 'max'"
    ):
        sentences.votes(small(pooling="average"), Tensor(WORDS))


def test_gradient_times_input_is_a_finite_difference():
    model, step = small(), 1e-6
    found = sentences.gradient_times_input(model, Tensor(WORDS), 1)
    vectors = model.embedding(WORDS).numpy()

    def lead(changed):
        scores = model.classify(Tensor(changed)).numpy()
        return scores[:, 1] - scores.mean(1)

    for place in range(WORDS.shape[1]):
        more, less = vectors.copy(), vectors.copy()
        more[:, place] *= 1 + step
        less[:, place] *= 1 - step
        slope = (lead(more) - lead(less)) / (2 * step)
        np.testing.assert_allclose(found[:, place], slope, atol=1e-8)


def test_gradient_times_input_is_the_same_in_training_under_no_grad_and_frozen():
    model = small()
    found = sentences.gradient_times_input(model, Tensor(WORDS), 1)
    model.train().requires_grad_(False)
    state = model.dropout._rng.bit_generator.state
    with minidl.no_grad():
        again = sentences.gradient_times_input(model, Tensor(WORDS), 1)
    np.testing.assert_array_equal(again, found)
    assert all(module.training for module in model.modules())
    assert model.dropout._rng.bit_generator.state == state


def reader():
    model = TextCNN(7, 6, 4, rng=np.random.default_rng(0)).eval()
    words = ["the", "film", "is", "not", "good"]
    return SentenceClassifier(model, Vocabulary(words), ("negative", "positive"))


def test_word_bars_name_every_word_and_what_bars_speak_for():
    figure = sentences.word_bars(reader(), ["film is good", "not good"])
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["film", "is", "good"]
    assert [tick.get_text() for tick in right.get_yticklabels()] == ["not", "good"]
    found = sentences.gradient_times_input(reader().network, reader().encode("not good"), 1)
    widths = [bar.get_width() for bar in right.patches]  # what is for the class, then against it
    np.testing.assert_allclose(widths, [*np.maximum(found[0, :2], 0), *np.minimum(found[0, :2], 0)])
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "for positive",
        "against positive",
    ]
    hatches = {bar.get_hatch() for bar in right.patches}
    assert len(hatches) == 2  # not by colour alone


def test_anatomy_frames_the_winners():
    figure = sentences.anatomy(reader(), "the film is not good", filters=3)
    vectors, *maps, scores = figure.axes
    assert [tick.get_text() for tick in vectors.get_yticklabels()][4:6] == ["good", "(padding)"]
    numbers = reader().encode("the film is not good")
    for axes, found in zip(maps, sentences.votes(reader().network, numbers), strict=True):
        framed = sorted(round(frame.get_y() + 0.5) for frame in axes.patches)
        drawn = np.argsort(-np.abs(found.values[0, :, -1]), kind="stable")[:3]
        assert framed == sorted(found.places[0, drawn])
    assert [tick.get_text() for tick in scores.get_yticklabels()] == ["negative", "positive"]


def test_the_strongest_phrases_have_the_largest_votes():
    texts = [["the", "film", "is", "not", "good"]]
    numbers = reader().encode("the film is not good")
    found = sentences.strongest_phrases(reader().network, numbers, texts, 1, 3)
    largest = max(
        votes.values[0, :, 1].max() for votes in sentences.votes(reader().network, numbers)
    )
    assert next(iter(found.values())) == pytest.approx(largest)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert all(phrase in " ".join(texts[0]) for phrase in found)


# Texts


def test_a_classifier_comes_back_from_its_files(tmp_path):
    first = reader()
    first.save(tmp_path)
    again = SentenceClassifier.load(tmp_path)
    assert again.classes == ["negative", "positive"]
    text = "the film is really good"
    assert again.answer(text) == first.answer(text)
    assert first.answer(text).endswith("tive: the film is really good (never seen: really)")


def test_a_classifier_that_is_not_whole_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        SentenceClassifier.load(tmp_path)
    reader().save(tmp_path)
    for broken in ("{", '["negative"]', "5"):
        (tmp_path / "classes.json").write_text(broken)
        with pytest.raises(ValueError, match="no saved classifier, or is damaged"):
            SentenceClassifier.load(tmp_path)
    reader().save(tmp_path)
    save_weights({"weight": np.zeros((2, 3))}, tmp_path / "weights.npz")
    with pytest.raises(ValueError, match="no saved classifier"):
        SentenceClassifier.load(tmp_path)


def test_a_bag_of_words_adds_up_scores_and_a_bias_and_ignores_order_and_padding():
    model = BagOfWords(4, 2)
    np.testing.assert_array_equal(model([[2, 3, 0]]).numpy(), [[0, 0]])
    with model.scores.weight.mutable() as array:
        array[2:] = [[1, 2], [10, 20]]
    with model.bias.mutable() as array:
        array[:] = [100, 200]
    scores = model([[2, 3, 0], [3, 2, 2]])
    np.testing.assert_array_equal(scores.numpy(), [[111, 222], [112, 224]])
    scores.sum().backward()
    np.testing.assert_array_equal(model.scores.weight.grad.numpy()[:, 0], [0, 0, 3, 2])
    np.testing.assert_array_equal(model.bias.grad.numpy(), [2, 2])


# PyTorch


@pytest.mark.oracle
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-9)])
def test_the_first_20_losses_are_pytorchs(dtype, tolerance):
    torch = pytest.importorskip("torch")

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(2000, 128, padding_idx=0)
            self.convs = torch.nn.ModuleList(
                [torch.nn.Conv2d(1, 100, (size, 128)) for size in (3, 4, 5)]
            )
            self.fc = torch.nn.Linear(300, 2)

        def forward(self, words):
            images = self.embedding(words)[:, None]
            pooled = [torch.relu(conv(images))[..., 0].max(2).values for conv in self.convs]
            return self.fc(torch.cat(pooled, 1))

    ours = TextCNN(2000, dropout=0.0, rng=np.random.default_rng(0)).to(dtype=dtype)
    theirs = Theirs().to(getattr(torch, dtype))
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in ours.state_dict().items()})
    rules = optim.Adam(ours.parameters(), lr=1e-3), torch.optim.Adam(theirs.parameters(), lr=1e-3)
    rng = np.random.default_rng(1)
    torch.set_num_threads(1)
    words = rng.integers(1, 2000, (50, 20)) * (np.arange(20) < rng.integers(3, 20, (50, 1)))
    labels = rng.integers(0, 2, 50)
    found, wanted = [], []
    for _ in range(20):
        losses = (
            F.cross_entropy(ours(words), labels),
            torch.nn.functional.cross_entropy(
                theirs(torch.from_numpy(words)), torch.from_numpy(labels)
            ),
        )
        for rule, loss, kept in zip(rules, losses, (found, wanted), strict=True):
            rule.zero_grad()
            loss.backward()
            rule.step()
            kept.append(loss.item())
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)
    assert wanted[-1] < 0.5 < wanted[0]
