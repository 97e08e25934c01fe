"""Chapter 9. A convolutional network that reads: sentences as images, and which phrase fired.

What you will learn: how a sentence becomes word indices, vectors, and an image one column wide; how
filters over a few words find phrases, and max pooling over time keeps the strongest; how to explain
the trained network's predictions, and what it can do that a bag of words cannot.

    python chapters/ch09_textcnn.py               # built-in toy sentences, offline
    python chapters/ch09_textcnn.py --data mr     # movie reviews (1.2 MB, downloaded once)
    python chapters/ch09_textcnn.py --data my.csv --text-column review --label-column stars
    python chapters/ch09_textcnn.py --predict "the film is not good"    # ask the saved network

What to expect on 2 cores, with seeds 0 to 2. Toy sentences, 6 epochs of three networks, 15 to 30 s:
the TextCNN classifies all test sentences correctly, averaging over time about 96 to 97 % of them,
and the bag of words about 65 %, because it scores "not" and "good" separately.

MR, 5 epochs, one to two minutes: 77 to 78 % in the best epoch, the second or third (selected on the
test sentences, so slightly optimistic); then the network memorises the training sentences. The bag
of words is as good here, 76 to 79 %, and averaging is worse, 75 to 78 %. The network does not learn
"not" from 9,596 sentences: depending on the seed, it calls "the film is not good" 55 or 56 %
positive, or 62 % negative.

Result: test accuracy 98 to 100 %, average over time 93 to 99 %, bag of words 58 to 70 %; about 14 s
on 2 cores.
With --quick: test accuracy 42 to 65 %, average over time 40 to 60 %, bag of words 55 to 68 %; about
2 s.
"""

import argparse
import json
import math
import sys
import time
import warnings
from pathlib import Path

import numpy as np

import minidl
from minidl import data, nn, optim, training
from minidl.data import Vocabulary, tokenize
from minidl.functional import cross_entropy, softmax
from minidl.inspect import plots, sentences
from minidl.models import TextCNN
from minidl.training import Output

# %% Options
sys.stdout = Output(sys.stdout)  # print in any encoding, and go on when nobody reads
parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
parser.add_argument("--data", default="toy", help="toy, mr, or a .csv, .tsv or .jsonl file")
parser.add_argument("--data-dir", type=Path, help="folder of MR's two files")
parser.add_argument("--text-column", default="text", help="column of the texts")
parser.add_argument("--label-column", default="label", help="column of the labels")
parser.add_argument("--encoding", default="utf-8", help="encoding of your file")
parser.add_argument("--epochs", type=int, help="passes over the data (toy: 6, others: 5)")
parser.add_argument("--batch-size", type=int, default=50, help="sentences per step")
parser.add_argument("--lr", type=float, default=1e-3, help="Adam's learning rate")
parser.add_argument("--seed", type=int, default=0, help="for split, weights and batches")
parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="device to run on")
parser.add_argument("--quick", action="store_true", help="few sentences and filters: takes seconds")
parser.add_argument("--predict", metavar="SENTENCE", help="classify it; train first if needed")
parser.add_argument("--out", type=Path, default=Path("out/ch09"), help="folder for the results")
args = parser.parse_args([] if "ipykernel" in sys.modules else None)
if args.epochs is None:
    args.epochs = 2 if args.quick else 6 if args.data == "toy" else 5
if min(args.epochs, args.batch_size) < 1 or args.seed < 0 or not 0 < args.lr < math.inf:
    parser.error("expected --epochs and --batch-size >= 1, --seed >= 0, --lr > 0")
if args.data_dir and args.data != "mr":
    parser.error("--data-dir goes with --data mr")
if args.predict is not None and not tokenize(args.predict):
    parser.error("--predict: expected a sentence of at least one word")


# %% A saved network: its sizes, vocabulary and weights
def load() -> tuple[TextCNN, Vocabulary, list[str]]:
    """Build a network and load the saved weights; return it, its vocabulary and its classes."""
    saved = json.loads((args.out / "sizes.json").read_text("utf-8"))
    model = TextCNN(**saved["sizes"]).eval()
    model.load_state_dict(training.load_weights(args.out / "weights.npz"))
    return model.to(args.device), Vocabulary.load(args.out / "vocabulary.json"), saved["classes"]


def read(texts: list[list[str]], vocabulary: Vocabulary) -> minidl.Tensor:
    """Return tokenised sentences as word indices (n, length), on the network's device."""
    return minidl.Tensor(vocabulary.encode(texts, ENDING), device=args.device)


def answer(text: str, model: TextCNN, vocabulary: Vocabulary, classes: list[str]) -> str:
    """Return a sentence's predicted class, the probability, and the unknown words."""
    words = tokenize(text)
    with minidl.no_grad():
        shares = softmax(model(read([words], vocabulary)), 1).numpy()[0]
    unknown = [word for word in words if word not in vocabulary]
    note = f" (never seen: {', '.join(unknown)})" if unknown else ""
    return f"{shares.max():.0%} {classes[shares.argmax()]}: {text}{note}"


SIZES = (3, 4, 5)  # filter sizes, in words
ENDING = max(SIZES)  # padding after every sentence: see Vocabulary.encode
try:
    minidl.zeros(1, device=args.device)  # fail early if there is no GPU or the disk is full
    args.out.mkdir(parents=True, exist_ok=True)
    if args.predict is not None and (args.out / "weights.npz").exists():
        print("result:", answer(args.predict, *load()))
        sys.exit()
    rng = minidl.manual_seed(args.seed)
    if args.data == "toy":
        train, test = data.load_toy_reviews()
    else:
        if args.data == "mr":
            everything = data.load_mr(args.data_dir, download=args.data_dir is None)
        else:
            columns = (args.text_column, args.label_column, args.encoding)
            everything = data.read_table(args.data, *columns)
        train, test = everything.split(0.1, rng)
except (OSError, ValueError, RuntimeError) as error:
    parser.error(str(error))
if len(train.classes) < 2:
    parser.error(f"{args.data}: got a single label, {train.classes[0]}, expected two or more")
if args.quick:
    train, test = train.first(1000), test.first(200)

# %% From sentences to word indices
# A vocabulary gives each word of the training sentences an index; 0 is padding, 1 any unknown word.
started = time.perf_counter()
train_words, test_words = ([tokenize(text) for text in part.texts] for part in (train, test))
vocabulary = Vocabulary.build(train_words)
print(f"{len(train.texts):,} training sentences, {len(test.texts):,} test sentences")
print(f"{len(vocabulary):,} words; classes: {', '.join(train.classes)}")
print(train.texts[0], "->", vocabulary.encode(train_words[:1])[0])

inputs, test_inputs = (vocabulary.encode(words, ENDING) for words in (train_words, test_words))
options = {"batch_size": args.batch_size, "ending": ENDING, "device": args.device}
train_batches = data.BucketLoader(inputs, train.labels, shuffle=True, rng=rng, **options)
test_batches = data.BucketLoader(test_inputs, test.labels, **options)
padding = [(array == 0).mean() for array in (inputs, *(x.numpy() for x, _ in train_batches))]
print(f"padding: {padding[0]:.0%} overall, {np.mean(padding[1:]):.0%} in batches of similar length")

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

# A filter in plain loops: at each position it multiplies three word vectors by its own three rows,
# element by element, and adds up the products. The convolution computes the same.
vectors = model.embedding(read(train_words[:1], vocabulary))  # (1, length, 128): one row per word
by_layer = model.convs[0](vectors.expand_dims(1)).numpy()[0, 0, :, 0]
rows, kernel = vectors.numpy()[0], model.convs[0].weight.numpy()[0, 0]
by_hand = [
    sum(rows[place + i] @ kernel[i] for i in range(3)) + model.convs[0].bias.numpy()[0]
    for place in range(len(rows) - 2)
]
np.testing.assert_allclose(by_layer, by_hand, atol=1e-4)


# %% Training, with two baselines: one ignores word order, the other averages over time
class BagOfWords(nn.Module):
    """A linear model of word counts: each word has a score per class; the scores are added up."""

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
# fit warns if the loss after an epoch is no better than guessing. Here the warning can be ignored:
# during training, dropout zeroes half of the last layer's inputs, and the epochs are short.
warnings.simplefilter("ignore", training.TrainingWarning)
histories, found = {}, {}
try:
    for name, (network, lr) in networks.items():
        print(f"\n{name}: {sum(p.size for p in network.parameters()):,} parameters", flush=True)
        network.to(args.device)
        adam = optim.Adam(network.parameters(), lr=lr)
        batches = (train_batches, test_batches)
        histories[name] = training.fit(network, cross_entropy, adam, *batches, epochs=args.epochs)
        found[name] = training.predict(network, test_batches).argmax(1)
except KeyboardInterrupt:
    print("\nstopped: nothing was saved")
    sys.exit(130)
except FloatingPointError as error:
    sys.exit(f"{error}\ntry a smaller --lr")
model.eval()

# %% Accuracy, class by class
classes = list(test.classes)
matrix = training.confusion_matrix(found["TextCNN"], test.labels, len(classes))
scores = np.transpose(training.class_scores(found["TextCNN"], test.labels, len(classes)))
print("\nclass          precision    recall        F1   predicted as each class")
for name, row, counts in zip(classes, scores, matrix, strict=True):
    print(f"{name:14}" + "".join(f"{score:10.1%}" for score in row), "  ", *counts)
accuracies = {name: training.accuracy(guesses, test.labels) for name, guesses in found.items()}

# %% Inside the network: which phrases win?
# The last layer only adds up response x weight. So the strongest window of each filter has a vote,
# and the phrases with the largest votes are those that the network looks for.
for label, name in enumerate(classes):
    strongest: dict[str, float] = {}
    for size, places, votes in sentences.votes(model, read(test_words, vocabulary)):
        best = np.argsort(votes[..., label], axis=None)[:-300:-1]
        for n, f in zip(*np.unravel_index(best, places.shape), strict=True):
            phrase = " ".join(test_words[n][places[n, f] : places[n, f] + size])
            strongest[phrase] = max(strongest.get(phrase, 0), float(votes[n, f, label]))
    strongest.pop("", None)  # only padding
    top = sorted(strongest, key=lambda phrase: -strongest[phrase])[:8]
    print(f"strongest phrases for {name}: " + ", ".join(f"{p!r} {strongest[p]:.2f}" for p in top))

# %% Does it understand "not"?
asked = [
    *("the film is good .", "the film is not good ."),
    *("the story is a masterpiece .", "the story is hardly a masterpiece ."),
    *("the ending is dull .", "the ending is never dull ."),
]
if args.data not in ("toy", "mr"):
    asked = list(test.texts[:6])
for text in asked:
    print("  " + answer(text, model, vocabulary, classes))

# %% One sentence: which words fired, and what does the gradient say?
# Left: the vote of each window, divided among its words. Right: gradient x input, which answers
# another question: how much the class's lead would drop if a word's vector became a little shorter.
text = args.predict or asked[min(1, len(asked) - 1)]
words = tokenize(text)
numbers = read([words], vocabulary)
label = int(model(numbers).numpy().argmax())
panels = {
    "votes of the windows that fired": sentences.word_votes(model, numbers, label),
    "gradient x input": sentences.gradient_times_input(model, numbers, label),
}
panels = {name: values[0, : len(words)] for name, values in panels.items()}
title = answer(text, model, vocabulary, classes)
history = histories["TextCNN"]
curves = {name: history[name] for name in history if name.startswith(("train_", "test_"))}

# %% Save and reload: the same sentence gets the same answer
(args.out / "weights.npz").unlink(missing_ok=True)  # from another run, with another vocabulary
vocabulary.save(args.out / "vocabulary.json")
(args.out / "sizes.json").write_text(json.dumps({"sizes": sizes, "classes": classes}), "utf-8")
weights = training.save_weights(model.state_dict(), args.out / "weights.npz")
if answer(text, *load()) != title:
    sys.exit(f"the reloaded network disagrees: {answer(text, *load())}")
print("reloaded:", title)
print("weights:", weights.resolve())

# %% Figures
try:
    for name, figure in {
        "words": sentences.word_bars(words, panels, classes[label], title),
        "curves": plots.training_curves(curves),
        "confusion": plots.confusion_matrix(matrix, classes),
    }.items():
        print("figure:", plots.save(figure, args.out / f"{name}.png").resolve())
except (ImportError, OSError) as error:  # Matplotlib is missing, or the disk is full
    print("no figures:", error)

# %% The result
print(
    f"result: test accuracy {accuracies['TextCNN']:.2%} after epoch {args.epochs}, best "
    f"{max(history['validation_accuracy']):.2%}; average over time {accuracies['average over time']:.2%}"
    f", bag of words {accuracies['bag of words']:.2%}; {time.perf_counter() - started:.0f} s"
)
plots.show()

# %% What comes next
# Chapter 10 goes back to images, with deeper networks. The code: minidl/models/text_cnn.py (the
# network), minidl/data/text.py (from words to indices), minidl/functional/embedding.py (its
# gradient).
#
# Fill in chapters/exercises/ch09_textcnn.py; `pytest chapters/exercises -k ch09` tells you which
# answers are right and which are not there yet.
#
# 1. `encode`: sentences as one array of word indices, padded to at least the largest filter's size.
# 2. `max_over_time`: the strongest response of each filter, ignoring the padding.
# 3. `winning_phrases`: for each filter, the words under its strongest response.
#
# Things to try here:
# - SIZES = (1,), filters over a single word: what can they still detect?
# - TextCNN(..., sparse=True): a step costs as much as its words, however large the vocabulary.
