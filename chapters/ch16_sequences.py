"""Chapter 16. Sequences: a GRU, a Transformer, and ways to pool what they read.

    python chapters/ch16_sequences.py --data mr --size 64 --epochs 6 --lr 1e-3    # movie reviews

Result: GRU 80 to 100 %, Transformer 60 to 99 %, mean of words 55 to 72 %; takes 5 times as long as
chapter 7.
With --quick: GRU 35 to 65 %, Transformer 35 to 65 %, mean of words 35 to 65 %.
"""

# %% [markdown]
# # 16. Sequences: reading with memory, and with attention
#
# A pool with fixed weights treats all words alike. **Attention** is a pool that computes its
# weights from the words: a **query** says what is looked for, each word has a **key** that says
# what it offers, and the better a key matches, the more of the word's **value** goes into the mean.
#
# **What you will learn:** attention by hand, as a weighted average; two ways to read in order, a
# recurrent network and a Transformer; how to pool what they read, without the padding; whether
# attention tells which words count. **You need:** chapters 3, 6 and 9.

# %%
import math
import time

import numpy as np

import minidl
from minidl import nn, optim, training
from minidl import functional as F
from minidl.chapter import SENTENCES, Chapter, Runs
from minidl.data import BucketLoader, Vocabulary, tokenize
from minidl.inspect import plots

chapter = Chapter(
    __doc__,
    **SENTENCES,  # --data, --data-dir, --text-column, --label-column, --encoding
    examples=({"toy": 3000, "mr": 20_000, "quick": 200}, "training sentences, at most"),
    epochs=({"toy": 5, "mr": 4, "quick": 1}, "passes over them"),
    batch_size=(50, "sentences per step"),
    lr=(5e-3, "Adam's learning rate"),
    size=(32, "numbers per word"),
    seeds=({"toy": 3, "quick": 2}, "runs of each network, the first with --seed"),
)

# %% [markdown]
# ## 1. By hand: attention is a weighted average
# A word's key has two numbers: does it negate, does it praise? The verdict asks for negations and
# praise alike. Each word's score is the product of query and key; the softmax of the scores, which
# is positive and adds up to 1, weights the values.
#
# **Predict, then run:** which words get the most weight, and how much does "film" get?

# %%
words = ["the", "film", "is", "not", "good"]
keys = np.array([[0.0, 0], [0, 0], [0, 0], [3, 0], [0, 3]])  # negates, praises
values = np.array([[0.0, 0], [0, 0], [0, 0], [1, 0], [0, 1]])
query = np.array([1.0, 1])
scores = [query @ key / math.sqrt(len(query)) for key in keys]
powers = [math.exp(score) for score in scores]
weights = [power / sum(powers) for power in powers]
average = sum(weight * value for weight, value in zip(weights, values, strict=True))
print("weights:", ", ".join(f"{w} {weight:.0%}" for w, weight in zip(words, weights, strict=True)))
tensors = [minidl.Tensor(array) for array in (query[None], keys, values)]
np.testing.assert_allclose(F.scaled_dot_product_attention(*tensors).numpy()[0], average)

# %% [markdown]
# The division by the root of the length keeps scores of long keys from growing. With equal scores
# this is the mean; as scores grow, it approaches the value of the best key, as a maximum does. So
# it lies between the pools of chapter 5, and gradient descent chooses where.
#
# ## 2. Padding must not count
# Sentences of a batch are padded with zeros to equal length. A mean over time would shrink with
# them, and a maximum could fall on them. So all layers here take a mask: which words are real.

# %%
parts = chapter.sentences()  # training, validation and test set; nothing is chosen here
train, test = parts[0].first(chapter.examples), parts[2].first(100 if chapter.quick else 10_000)
tokens = [[tokenize(text) for text in part.texts] for part in (train, test)]
vocabulary = Vocabulary.build(tokens[0])
inputs = [vocabulary.encode(part, 3) for part in tokens]
classes = train.classes
print(f"{len(train.labels):,} training, {len(test.labels):,} test sentences")

# %% [markdown]
# ## 3. Four ways to read, five ways to pool
# The mean of the **words** ignores their order. **TextCNN** sees three words at a time. A
# **gated recurrent unit** (GRU) reads word by word: its **hidden state** is a vector that each word
# updates, and gates decide how much of the old one stays. Here one reads forwards, one backwards. A
# **Transformer** lets each word attend to all others, **self-attention**, in 4 heads, which look
# for different things. Attention does not see order, so a **positional encoding** is added.
#
# What they return, a vector for each word, is pooled: the last word's, the mean, the maximum, or
# attention with a learned query. A **class token** is a vector put before the first word, whose own
# output is taken: it collects by self-attention what it needs.


# %%
class Reader(nn.Module):
    def __init__(self, body: str, pool: str, size: int, rng: np.random.Generator) -> None:
        self.kind, self.pool = body, pool
        self.embedding = nn.Embedding(len(vocabulary), size, padding_idx=0, rng=rng)
        if body == "TextCNN":
            self.body = nn.Conv1d(size, size, 3, padding=1, rng=rng)
        elif body == "GRU":
            half = size // 2  # of the channels for each direction
            self.body = nn.GRU(size, half, bidirectional=True, batch_first=True, rng=rng)
        elif body == "Transformer":
            self.positions = nn.PositionalEncoding(1000, size)
            layer = {"dropout": 0.0, "batch_first": True, "norm_first": True, "rng": rng}
            self.body = nn.TransformerEncoderLayer(size, 4, 2 * size, **layer)
        if pool == "class token":
            self.token = nn.Parameter(minidl.randn(1, 1, size, rng=rng))
        self.attend = nn.AttentionPool(size, rng=rng)
        self.dropout = nn.Dropout(0.3, rng=rng)
        self.fc = nn.Linear(size, len(classes), rng=rng)

    def forward(self, words: minidl.Tensor) -> minidl.Tensor:
        words = words.array if isinstance(words, minidl.Tensor) else words
        return self.classify(self.embedding(words), words != 0)

    def classify(self, vectors: minidl.Tensor, mask: np.ndarray) -> minidl.Tensor:
        return self.fc(self.dropout(self.pooled(*self.read(vectors, mask))))

    def read(self, vectors: minidl.Tensor, mask: np.ndarray) -> tuple[minidl.Tensor, np.ndarray]:
        """Return a vector for each word, (n, size, length), and which of them count."""
        if self.pool == "class token":
            first = self.token.broadcast_to((len(mask), 1, vectors.shape[2]))
            vectors = minidl.concatenate([first, vectors], 1)
            mask = np.concatenate([mask[:, :1] | True, mask], 1)
        if self.kind == "TextCNN":
            return F.relu(self.body(vectors.transpose(0, 2, 1))), mask
        if self.kind == "GRU":
            vectors, _ = self.body(vectors, mask=mask)
        elif self.kind == "Transformer":
            vectors = self.body(self.positions(vectors), src_key_padding_mask=~mask)
        return vectors.transpose(0, 2, 1), mask

    def pooled(self, states: minidl.Tensor, mask: np.ndarray) -> minidl.Tensor:
        if self.pool == "class token":
            return states[:, :, 0]
        if self.pool == "last":
            return states[np.arange(len(mask)), :, mask.sum(1) - 1]
        if self.pool == "attention":
            return self.attend(states, mask)
        return {"mean": F.masked_avg_pool1d, "maximum": F.masked_max_pool1d}[self.pool](
            states, mask
        )


# Alone, or padded in a batch: the same scores.
short, padded = inputs[1][:1, : len(tokens[1][0])], np.pad(inputs[1][:1], ((0, 0), (0, 9)))
for kind in ("GRU", "Transformer"):
    model = Reader(kind, "mean", chapter.size, np.random.default_rng(0)).eval()
    np.testing.assert_allclose(model(short).numpy(), model(padded).numpy(), rtol=1e-3, atol=1e-5)

# %% [markdown]
# ## 4. All runs
# Every network is trained with several seeds; see chapter 8 for why, and for `Runs`.
#
# **Predict, then run:** a word's sign turns on "not" before it. Who will be near the mean of words?

# %%
POOLS = {
    "words": ["mean"],
    "TextCNN": ["mean", "maximum"],
    "GRU": ["last", "mean", "maximum", "attention"],
    "Transformer": ["mean", "maximum", "attention", "class token"],
}
nets = [(kind, pool) for kind, pools in POOLS.items() for pool in pools]
trained = {}  # the last run of each network


def run(kind: str, pool: str, seed: int) -> dict[str, float]:
    model = Reader(kind, pool, chapter.size, np.random.default_rng((seed, 0)))
    options = {"batch_size": chapter.batch_size, "ending": 3}
    order = np.random.default_rng((seed, 1))
    batches = BucketLoader(inputs[0], train.labels, shuffle=True, rng=order, **options)
    adam, started = optim.Adam(model.parameters(), lr=chapter.lr), time.perf_counter()
    for _ in range(chapter.epochs):
        for sentences, labels in batches:
            loss = F.cross_entropy(model(sentences), labels)
            adam.zero_grad()
            loss.backward()
            adam.step()
    seconds = (time.perf_counter() - started) / chapter.epochs
    found = training.predict(model, BucketLoader(inputs[1], test.labels, **options)).argmax(1)
    trained[kind, pool] = model
    return {"accuracy": 100 * training.accuracy(found, test.labels), "seconds": seconds}


names = ("data", "examples", "epochs", "batch_size", "lr", "size")
settings = {name: getattr(chapter, name) for name in names}
path, varied = chapter.out / "runs.csv", ("kind", "pool", "seed")
functions = [Reader, run]
runs = chapter.load(Runs, path, settings, varied, ("accuracy", "seconds"), functions=functions)
seeds = range(chapter.seed, chapter.seed + chapter.seeds)
with chapter.interruptible("run the same command to resume"):
    runs.complete([(*net, seed) for seed in seeds for net in nets], run)

accuracy = {net: np.array([runs[*net, seed]["accuracy"] for seed in seeds]) for net in nets}
print("\n| reads | pools | test accuracy, % | s per epoch |\n| --- | --- | --- | --- |")
for net, found in accuracy.items():
    fastest = min(runs[*net, seed]["seconds"] for seed in seeds)
    spread = found.std(ddof=1) if len(found) > 1 else 0.0
    print(f"| {net[0]} | {net[1]} | {found.mean():.1f} +- {spread:.1f} | {fastest:.2f} |")


# %% tags=["hide-input"]
def draw_accuracy():
    figure, ax = plots.subplots(figsize=(7, 4.5))
    for row, found in enumerate(accuracy.values()):
        ax.plot(found, [row] * len(found), "o", color="#999999", markersize=4)
        ax.plot(found.mean(), row, "D", color=plots.COLOURS[0])
    ax.set_yticks(range(len(nets)), [", ".join(net) for net in nets])
    ax.set(xlabel="test accuracy (%)", ylim=(len(nets) - 0.5, -0.5))
    return figure


chapter.keep(
    *(draw_accuracy, "accuracy"),
    "the mean of words stays near the left; who sees neighbours moves right, and pools of the same "
    "reader differ less than readers do",
)

# %% [markdown]
# ## 5. Does attention say which words count?
# The weights of attention look like an explanation: the network "looked at" these words. But its
# inputs are states of the GRU, which have seen the other words too. The gradient asks another
# question: how fast does the class's lead grow with this word's vector? Each names one word per
# sentence. If that word decides, the answer should change when it becomes an unknown word.
#
# **Predict, then run:** which of the two changes more answers than a word drawn at random?

# %%
net = ("GRU", "attention")
model = trained.get(net) or (run(*net, seeds[-1]), trained[net])[1]  # its run was in the file
model.eval()


def importance(sentence: np.ndarray) -> dict[str, np.ndarray]:
    """Return for each word its attention, and its vector times the gradient of the lead."""
    mask = sentence[None] != 0
    vectors = model.embedding(sentence[None]).detach().requires_grad_()
    states, _ = model.read(vectors, mask)
    shares = F.softmax(model.attend.weight @ states).numpy()[0]
    scores = model.classify(vectors, mask)
    (scores.max(1) * 2 - scores.sum(1)).sum().backward()
    return {"attention": shares, "gradient": (vectors.grad.numpy() * vectors.numpy())[0].sum(1)}


rng, changed, same = np.random.default_rng(0), {}, []
sample = [row[row > 0] for row in inputs[1][: 50 if chapter.quick else 300]]
for sentence in sample:
    found = importance(sentence)
    found["random word"] = rng.random(len(sentence))
    same.append(found["attention"].argmax() == np.abs(found["gradient"]).argmax())
    answer = model(sentence[None]).numpy().argmax()
    for name, marks in found.items():
        hidden = np.where(np.arange(len(sentence)) == np.abs(marks).argmax(), 1, sentence)
        changed.setdefault(name, []).append(model(hidden[None]).numpy().argmax() != answer)
print("answers that change when one word is hidden:")
for name, flags in changed.items():
    print(f"  the word named by {name}: {np.mean(flags):.0%}")
print(f"attention and gradient name the same word in {np.mean(same):.0%} of the sentences")


# %% tags=["hide-input"]
def draw_words():
    figure, axes = plots.subplots(1, 2, figsize=(9, 4.5))
    texts = ["the film is good .", "my neighbour loved it , but the film is never good ."]
    for ax, text in zip(axes, texts, strict=True):
        tokens, marks = tokenize(text), importance(vocabulary.encode([tokenize(text)])[0])
        for shift, (name, values) in zip((-0.2, 0.2), marks.items(), strict=True):
            share = np.abs(values) / np.abs(values).sum()
            ax.barh(np.arange(len(tokens)) + shift, share, 0.4, label=name)
        ax.set_yticks(range(len(tokens)), tokens)
        ax.set(xlabel="share of a sentence", ylim=(len(tokens) - 0.5, -0.5))
    axes[0].legend()
    return figure


chapter.keep(
    *(draw_words, "words"),
    "where the bars of a word differ, attention and gradient disagree: attention often rests on "
    "words next to the one that decides, whose states have read it",
)
best = [accuracy[kind, pool].mean() for kind, pool in (net, ("Transformer", "attention"), nets[0])]
chapter.result("GRU {:.1f}%, Transformer {:.1f}%, mean of words {:.1f}%".format(*best))

# %% [markdown]
# ## What comes next
# Fill in chapters/exercises/ch16_sequences.py; `python -m pytest chapters/exercises -k ch16` (after
# `pip install -e '.[test]'`, the README's second command) tells you which answers are right and
# which are not there yet.
#
# 1. `attend`: attention of several queries, in NumPy, with a mask.
# 2. `masked_mean`: the mean over time of padded sentences.
# 3. `gru_step`: one step of a gated recurrent unit.
#
# **Change this and explain:** remove `self.positions(...)` from the Transformer. What can it still
# read, and which row of the table does it come close to?
#
# **Further reading:** [Vaswani et al., Attention Is All You Need
# (2017)](https://arxiv.org/abs/1706.03762); [Jain and Wallace, Attention is not Explanation
# (2019)](https://arxiv.org/abs/1902.10186).
