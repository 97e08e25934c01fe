"""Chapter 8. A convolutional network that reads: sentences as images, and which phrase fired.

What you will learn: how a sentence becomes numbers, vectors, and an image one column wide; how
filters over a few words find phrases, and the maximum over time keeps the strongest; how to ask the
trained network why it said what it said, and what it has that a bag of words has not.

    python chapters/ch08_textcnn.py               # embedded toy sentences, offline
    python chapters/ch08_textcnn.py --data mr     # movie reviews (1.2 MB, downloaded once)
    python chapters/ch08_textcnn.py --data my.csv --text-column review --label-column stars
    python chapters/ch08_textcnn.py --predict "the film is not good"    # asks the saved network

EXPECT
"""

import argparse
import json
import math
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

import minidl
from minidl import nn, optim
from minidl.data import (
    BucketLoader,
    Vocabulary,
    load_mr,
    load_toy_reviews,
    read_table,
    tokenize,
)
from minidl.functional import cross_entropy, softmax
from minidl.inspect import plots
from minidl.models import TextCNN
from minidl.training import (
    TrainingWarning,
    accuracy,
    confusion_matrix,
    fit,
    load_weights,
    predict,
    save_weights,
)

# %% What can be chosen
parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data", default="toy", help="toy, mr, or a .csv, .tsv or .jsonl file")
parser.add_argument("--data-dir", type=Path, help="where MR's two files are")
parser.add_argument("--text-column", default="text", help="of your file")
parser.add_argument("--label-column", default="label", help="of your file: whole numbers")
parser.add_argument("--encoding", default="utf-8", help="of your file")
parser.add_argument("--epochs", type=int, help="passes over the data (toy: 10, others: 5)")
parser.add_argument("--batch-size", type=int, default=50, help="sentences per step")
parser.add_argument("--lr", type=float, default=1e-3, help="Adam's learning rate")
parser.add_argument("--seed", type=int, default=0, help="of split, weights and batches")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute")
parser.add_argument("--quick", action="store_true", help="few sentences, few filters: seconds")
parser.add_argument("--predict", metavar="SENTENCE", help="ask the network, trained before or now")
parser.add_argument("--out", type=Path, default=Path("out/ch08"), help="folder for the results")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)
if args.epochs is None:
    args.epochs = 2 if args.quick else 10 if args.data == "toy" else 5
if min(args.epochs, args.batch_size) < 1 or args.seed < 0 or not 0 < args.lr < math.inf:
    parser.error("wants --epochs and --batch-size from 1, --seed from 0, --lr above 0")
if args.data_dir and args.data != "mr":
    parser.error("--data-dir goes with --data mr")
if args.predict is not None and not tokenize(args.predict):
    parser.error("--predict wants a sentence of at least one word")


# %% A network on disk: its vocabulary, its sizes, its weights
def save(model: TextCNN, sizes: dict, classes: tuple[str, ...]) -> None:
    """Write all that a sentence needs to be told positive or negative another day."""
    vocabulary.save(args.out / "vocabulary.json")
    (args.out / "sizes.json").write_text(json.dumps({"net": sizes, "classes": classes}), "utf-8")
    save_weights(model.state_dict(), args.out / "weights.npz")  # last: then all are there


def load() -> tuple[TextCNN, Vocabulary, list[str]]:
    """Read it back into a network that has never been trained."""
    saved = json.loads((args.out / "sizes.json").read_text("utf-8"))
    model = TextCNN(**saved["net"]).eval()
    model.load_state_dict(load_weights(args.out / "weights.npz"))
    return model.to(args.device), Vocabulary.load(args.out / "vocabulary.json"), saved["classes"]


def read(sentences: list[list[str]], vocabulary: Vocabulary) -> minidl.Tensor:
    """Return sentences as numbers (n, length) where the network is."""
    return minidl.Tensor(vocabulary.encode(sentences, ENDING), device=args.device)


def answer(text: str, model: TextCNN, vocabulary: Vocabulary, classes: list[str]) -> str:
    """Say which class the network gives a sentence, how sure it is, and what it cannot read."""
    words = tokenize(text)
    with minidl.no_grad():
        shares = softmax(model(read([words], vocabulary)), 1).numpy()[0]
    unknown = [word for word in words if word not in vocabulary]
    note = f" (never seen: {', '.join(unknown)})" if unknown else ""
    return f"{shares.max():.0%} {classes[shares.argmax()]}: {text}{note}"


SIZES = (3, 4, 5)  # of the filters, in words
ENDING = max(SIZES)  # padding after every sentence: see Vocabulary.encode
try:
    minidl.zeros(1, device=args.device)  # a missing GPU, or a full disk, is better known now
    args.out.mkdir(parents=True, exist_ok=True)
    if args.predict is not None and (args.out / "weights.npz").exists():
        print("result:", answer(args.predict, *load()))
        sys.exit()
    rng = minidl.manual_seed(args.seed)
    if args.data == "toy":
        train, test = load_toy_reviews()
    else:
        if args.data == "mr":
            everything = load_mr(args.data_dir, download=args.data_dir is None)
        else:
            columns = (args.text_column, args.label_column, args.encoding)
            everything = read_table(args.data, *columns)
        train, test = everything.split(0.1, rng)
except (OSError, ValueError, RuntimeError) as error:
    parser.error(str(error))
if len(train.classes) < 2:
    parser.error(f"{args.data} has a single label, {train.classes[0]}: nothing to tell apart")
if args.quick:
    train, test = train.first(1000), test.first(200)

# %% From sentences to numbers
# A vocabulary numbers the words of the training sentences; 0 is padding, 1 any unknown word.
started = time.perf_counter()
train_words, test_words = ([tokenize(text) for text in part.texts] for part in (train, test))
vocabulary = Vocabulary.build(train_words)
print(f"{len(train.texts):,} sentences to learn from, {len(test.texts):,} to be tested on")
print(f"{len(vocabulary):,} words; classes: {', '.join(train.classes)}")
print(train.texts[0], "->", vocabulary.encode(train_words[:1])[0])

inputs, test_inputs = (vocabulary.encode(words, ENDING) for words in (train_words, test_words))
options = {"batch_size": args.batch_size, "ending": ENDING, "device": args.device}
train_batches = BucketLoader(inputs, train.labels, shuffle=True, rng=rng, **options)
test_batches = BucketLoader(test_inputs, test.labels, **options)
padding = [(array == 0).mean() for array in (inputs, *(x.numpy() for x, _ in train_batches))]
print(f"padding: {padding[0]:.0%} of all; in batches of like length {np.mean(padding[1:]):.0%}")

# %% The network
sizes = {
    "vocab_size": len(vocabulary),
    "embedding_dim": 32 if args.quick else 128,
    "num_filters": 16 if args.quick else 100,
    "filter_sizes": SIZES,
    "num_classes": len(train.classes),
    "dropout": 0.5,
}
model = TextCNN(**sizes, rng=rng).to(args.device)
print(model)

# What a filter does, in plain loops: it lies on three words at a time and adds up, number by
# number, what their vectors and its own have in common. As a convolution it is the same.
vectors = model.embedding(
    read(train_words[:1], vocabulary)
)  # (1, length, 128): an image with a row for each word
by_layer = model.convs[0](vectors.expand_dims(1)).numpy()[0, 0, :, 0]
rows, kernel = vectors.numpy()[0], model.convs[0].weight.numpy()[0, 0]
by_hand = [
    sum(rows[place + i] @ kernel[i] for i in range(3)) + model.convs[0].bias.numpy()[0]
    for place in range(len(rows) - 2)
]
np.testing.assert_allclose(by_layer, by_hand, atol=1e-4)


# %% Training, and two networks to compare with: one cannot see order, one does not choose
class BagOfWords(nn.Module):
    """A linear model of how often each word comes: a score per word and class, added up."""

    def __init__(self, words: int, classes: int) -> None:
        nothing = np.zeros((words, classes), "f4")
        self.scores = nn.Embedding.from_pretrained(nothing, freeze=False, padding_idx=0)
        self.bias = nn.Parameter(np.zeros(classes, "f4"))

    def forward(self, words: minidl.Tensor) -> minidl.Tensor:
        """Return the logits."""
        return self.scores(words).sum(1) + self.bias


networks = {
    "TextCNN": (model, args.lr),
    "average over time": (TextCNN(**sizes, pooling="average", rng=rng), args.lr),
    "bag of words": (BagOfWords(len(vocabulary), len(train.classes)), 10 * args.lr),
}
# fit warns of a loss that is no better than guessing after an epoch. Here that means nothing: half
# of what the last layer sees is dropped while learning, and the epochs are short.
warnings.simplefilter("ignore", TrainingWarning)
histories, found = {}, {}
try:
    for name, (network, lr) in networks.items():
        print(f"\n{name}: {sum(p.size for p in network.parameters()):,} parameters", flush=True)
        network.to(args.device)
        adam = optim.Adam(network.parameters(), lr=lr)
        batches = (train_batches, test_batches)
        histories[name] = fit(network, cross_entropy, adam, *batches, epochs=args.epochs)
        found[name] = predict(network, test_batches).argmax(1)
except KeyboardInterrupt:
    print("\nstopped: nothing is saved")
    sys.exit(130)
except FloatingPointError as error:
    sys.exit(f"{error}\ntry a smaller --lr")
model.eval()

# %% How good it is, class by class
matrix = confusion_matrix(found["TextCNN"], test.labels, len(test.classes))
print("\nclass          precision  recall      F1   sentences (rows: truth; columns: predicted)")
for place, name in enumerate(test.classes):
    right, given, there = matrix[place, place], matrix[:, place].sum(), matrix[place].sum()
    scores = (right / max(given, 1), right / max(there, 1), 2 * right / max(given + there, 1))
    print(f"{name:14}" + "".join(f"{score:10.1%}" for score in scores), "  ", *matrix[place])
for name, history in histories.items():
    best = max(history["test_accuracy"])
    print(f"{name:18} {history['test_accuracy'][-1]:.1%}, in its best epoch {best:.1%}")


# %% Opening the net: which phrases win?
def winners(words: minidl.Tensor) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return, for each filter size, where each filter fired (n, filters), and how it voted.

    The vote for a class is response x weight: the last layer adds these up, and nothing else. What
    all classes get alike decides nothing, and is taken off: (n, filters, classes).
    """
    weight = model.fc.weight.numpy().T  # (3 * filters, classes)
    weight = (weight - weight.mean(1, keepdims=True)).reshape(len(SIZES), -1, weight.shape[1])
    with minidl.no_grad():
        maps = [r.numpy() for r in model.responses(model.embedding(words))]
    places = [array.argmax(2) for array in maps]
    return places, [m.max(2)[..., None] * w for m, w in zip(maps, weight, strict=True)]


places, votes = winners(read(test_words, vocabulary))
for label, name in enumerate(test.classes):
    strongest: dict[str, float] = {}
    for size, place, vote in zip(SIZES, places, votes, strict=True):
        best = np.argsort(vote[..., label], axis=None)[: -300 - 1 : -1]
        for n, f in zip(*np.unravel_index(best, place.shape), strict=True):
            phrase = " ".join(test_words[n][place[n, f] : place[n, f] + size])
            strongest[phrase] = max(strongest.get(phrase, 0), float(vote[n, f, label]))
    top = sorted(strongest, key=lambda phrase: -strongest[phrase])[:8]
    print(f"\nwhat says {name}: " + " | ".join(f"{p} ({strongest[p]:.2f})" for p in top))


# %% One sentence: which words fired, and what does the gradient say?
def draw(text: str) -> plt.Figure:
    """Draw, for every word, the votes of the windows it was in, and its gradient x input.

    A vote is shared evenly among the words of its window. Gradient x input asks something else:
    how the difference of scores would change if the word's vector shrank to nothing.
    """
    words = tokenize(text)
    numbers = read([words], vocabulary)
    vectors = model.embedding(numbers).detach().requires_grad_()
    scores = model.classify(vectors)[0]
    label = int(scores.numpy().argmax())
    (gradient,) = minidl.grad(scores[label] - scores.mean(), vectors)
    slope = (gradient.numpy() * vectors.numpy())[0].sum(1)
    fired = np.zeros(numbers.shape[1])
    for size, place, vote in zip(SIZES, *winners(numbers), strict=True):
        for start, value in zip(place[0], vote[0, :, label], strict=True):
            fired[start : start + size] += value / size
    figure, axes = plt.subplots(
        1, 2, figsize=(8, 1.4 + 0.28 * len(words)), layout="constrained", sharey=True
    )
    titles = ("votes of the windows that fired", "gradient x input")
    for panel, values, title in zip(axes, (fired, slope), titles, strict=True):
        values = values[: len(words)]
        colours = [plots.COLOURS[0] if value > 0 else plots.COLOURS[1] for value in values]
        panel.barh(range(len(words)), values, color=colours)
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set(title=title, xlabel=f"for {test.classes[label]}")
    axes[0].set_yticks(range(len(words)), words)
    axes[0].invert_yaxis()
    figure.suptitle(answer(text, model, vocabulary, list(test.classes)), size=10)
    return figure


# %% Does it understand "not"?
classes = list(test.classes)
sentences = [
    *("the film is good .", "the film is not good ."),
    *("the story is a masterpiece .", "the story is hardly a masterpiece ."),
    *("the ending is dull .", "the ending is never dull ."),
]
if args.data not in ("toy", "mr"):
    sentences = list(test.texts[:6])
print("\nwith and without a negation:")
for text in sentences:
    print("  " + answer(text, model, vocabulary, classes))
shown = args.predict or sentences[1]
curves = {n: v for n, v in histories["TextCNN"].items() if n.startswith(("train_", "test_"))}
pictures = {
    "words": draw(shown),
    "curves": plots.training_curves(curves),
    "confusion": plots.confusion_matrix(matrix, classes),
}
for name, figure in pictures.items():
    print("picture:", plots.save(figure, args.out / f"{name}.png").resolve())

# %% Saved, and loaded back: the same sentence gets the same answer
save(model, sizes, test.classes)
again = answer(shown, *load())
if again != answer(shown, model, vocabulary, classes):
    sys.exit(f"the reloaded network says {again}")
print("weights:", (args.out / "weights.npz").resolve())

# %% The result, and what comes next
# Chapter 9 goes back to pictures, with deeper networks. Things to try here: filters over a single
# word, (1,) for SIZES: what can it still tell? nn.Embedding(..., sparse=True) through
# TextCNN(..., sparse=True): how much faster is a step, and does it learn alike? Read
# minidl/models/text_cnn.py (the network), minidl/data/text.py (words to numbers) and
# minidl/functional/embedding.py (its gradient).
if args.predict:
    print("predicted:", again)
compared = ", ".join(f"{name} {accuracy(found[name], test.labels):.1%}" for name in list(found)[1:])
print(
    f"result: test accuracy {accuracy(found['TextCNN'], test.labels):.2%} after epoch "
    f"{args.epochs}, best {max(histories['TextCNN']['test_accuracy']):.2%}; {compared}; "
    f"{time.perf_counter() - started:.0f} s"
)
plots.show()
