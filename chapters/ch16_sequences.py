"""Chapter 16. Sequences: a GRU, a Transformer, and ways to pool what they read.

    python chapters/ch16_sequences.py --data mr --size 64 --epochs 6 --lr 1e-3    # movie reviews

Result: GRU 88 to 100 %, Transformer 55 to 85 %, words 55 to 72 %; takes 3 times as long as
chapter 7.
With --quick: GRU 30 to 70 %, Transformer 30 to 70 %, words 30 to 70 %.
"""

# %% [markdown]
# # 16. Sequences: reading with memory, and with attention
#
# A mean treats all words alike. **Attention** computes the weights of a mean from the words: a
# **query** says what is looked for, each word's **key** what it offers, and the better a key
# matches, the more of the word's **value** goes into the mean.
#
# **What you will learn:** attention by hand; reading with a recurrent network and a Transformer;
# pooling without the padding; whether attention tells which words count. **You need:** chapter 9.

# %%
import time

import numpy as np

import minidl
from minidl import functional as F
from minidl import nn, optim, training
from minidl.chapter import SENTENCES, Chapter, Runs
from minidl.data import BucketLoader, Vocabulary, tokenize
from minidl.inspect import plots

chapter = Chapter(
    __doc__,
    **SENTENCES,  # --data, --data-dir, --text-column, --label-column, --encoding
    examples=({"toy": 3000, "mr": 20_000, "quick": 200}, "training sentences, at most"),
    epochs=({"toy": 4, "mr": 4, "quick": 1}, "passes over them"),
    lr=(5e-3, "Adam's learning rate"),
    size=(32, "numbers per word"),
    seeds=({"toy": 3, "quick": 2}, "runs of each network, the first with --seed"),
)

# %% [markdown]
# ## 1. By hand: attention is a weighted average
# A word's key $k$ has $d = 2$ numbers: does it negate, does it praise? The query $q$ asks for both.
# A score is $q \cdot k / \sqrt{d}$; the softmax of the scores weights the values.
#
# **Predict, then run:** which words get the most weight, and how much does "film" get?

# %%
words = ["the", "film", "is", "not", "good"]
values = np.array([[0.0, 0], [0, 0], [0, 0], [1, 0], [0, 1]])  # negates, praises
keys, query = 3 * values, np.array([1.0, 1])
powers = [np.exp(query @ key / np.sqrt(len(query))) for key in keys]
weights = [power / sum(powers) for power in powers]
average = sum(weight * value for weight, value in zip(weights, values, strict=True))
print("weights:", ", ".join(f"{w} {weight:.0%}" for w, weight in zip(words, weights, strict=True)))
tensors = [minidl.Tensor(array) for array in (query[None], keys, values)]
np.testing.assert_allclose(F.scaled_dot_product_attention(*tensors).numpy()[0], average)

# %% [markdown]
# The root $\sqrt{d}$ keeps scores of long keys small. With equal scores this is the mean; as scores
# grow, it approaches the value of the best key, as a maximum does. So attention lies between the
# pools of chapter 5, and gradient descent chooses where.
#
# ## 2. Padding must not count
# Sentences are padded with zeros to equal length: a mean over time would shrink with them, and a
# maximum could fall on them. So all layers here take a mask, which says what words are real.

# %%
parts = chapter.sentences()  # training, validation and test set; nothing is chosen here
train, test = parts[0].first(chapter.examples), parts[2].first(100 if chapter.quick else 10_000)
tokens, classes = [[*map(tokenize, part.texts)] for part in (train, test)], train.classes
vocabulary = Vocabulary.build(tokens[0])
inputs = [vocabulary.encode(part, 3) for part in tokens]

# %% [markdown]
# ## 3. Four ways to read, five ways to pool
# The mean of the words ignores their order. TextCNN sees three words at a time. A **gated
# recurrent unit** (GRU) reads word by word: its **hidden state** is a vector that each word
# updates, and gates decide how much of the old one stays. Here one reads forwards, one backwards. A
# **Transformer** lets each word attend to all others, **self-attention**, with 4 queries per word
# side by side. Attention does not see order, so a **positional encoding** is added to each vector.
# The vectors that they return, one per word, are pooled: the last one, the mean, the maximum, or
# attention with a learned query; or only that of a **class token**, put before the first word.


# %%
class Reader(nn.Module):
    def __init__(self, body: str, pool: str, size: int, rng: np.random.Generator) -> None:
        self.kind, self.pool = body, pool
        self.embedding = nn.Embedding(len(vocabulary), size, padding_idx=0, rng=rng)
        if body == "TextCNN":
            self.body = nn.Conv1d(size, size, 3, padding=1, rng=rng)
        elif body == "GRU":
            self.body = nn.GRU(size, size // 2, batch_first=True, bidirectional=True, rng=rng)
        elif body == "Transformer":
            self.positions = nn.PositionalEncoding(1000, size)
            layer = {"dropout": 0.0, "batch_first": True, "norm_first": True, "rng": rng}
            self.body = nn.TransformerEncoderLayer(size, 4, 2 * size, **layer)
        self.token = nn.Parameter(minidl.zeros(1, 1, size))
        self.attend = nn.AttentionPool(size, rng)
        self.dropout, self.fc = nn.Dropout(0.3, rng=rng), nn.Linear(size, len(classes), rng=rng)

    def forward(self, words):
        return self.classify(self.embedding(words), words != 0)

    def classify(self, vectors, mask):
        states = self.read(vectors, mask)
        if self.pool == "class token":
            return self.fc(self.dropout(states[:, :, 0]))
        if self.pool == "last":  # of which no real word comes after
            mask = mask & ~np.concatenate([mask[:, 1:], mask[:, :1] & False], 1)
        pools = {"maximum": F.masked_max_pool1d, "attention": self.attend}
        return self.fc(self.dropout(pools.get(self.pool, F.masked_avg_pool1d)(states, mask)))

    def read(self, vectors, mask):
        if self.pool == "class token":
            token = self.token.broadcast_to((len(mask), 1, vectors.shape[2]))
            vectors = minidl.concatenate([token, vectors], 1)
            mask = np.concatenate([mask[:, :1], mask], 1)  # the first word is always real
        if self.kind == "TextCNN":
            return F.relu(self.body(vectors.transpose(0, 2, 1)))
        if self.kind == "GRU":
            vectors, _ = self.body(vectors, mask=mask)
        elif self.kind == "Transformer":
            vectors = self.body(self.positions(vectors), src_key_padding_mask=~mask)
        return vectors.transpose(0, 2, 1)


# %% [markdown]
# ## 4. All runs
# Each network is trained with several seeds: see chapter 8, also for `Runs`.
#
# **Predict, then run:** "not" reverses a verdict. Which networks will be near the mean of words?

# %%
nets = [("words", "mean"), ("TextCNN", "mean"), ("TextCNN", "maximum")]
nets += [("GRU", pool) for pool in ("last", "mean", "maximum", "attention")]
nets += [("Transformer", pool) for pool in ("mean", "maximum", "attention", "class token")]
options = {"batch_size": 50, "ending": 3, "device": chapter.device}
trained = {}  # the last run of each network


def run(kind: str, pool: str, seed: int) -> dict[str, float]:
    model = Reader(kind, pool, chapter.size, np.random.default_rng((seed, 0))).to(chapter.device)
    order = np.random.default_rng((seed, 1))
    batches = BucketLoader(inputs[0], train.labels, shuffle=True, rng=order, **options)
    adam, started = optim.Adam(model.parameters(), lr=chapter.lr), time.perf_counter()
    for _ in range(chapter.epochs):
        for sentences, labels in batches:
            loss = F.cross_entropy(model(sentences), labels)
            adam.zero_grad()
            loss.backward()
            adam.step()
    seconds, trained[kind, pool] = (time.perf_counter() - started) / chapter.epochs, model
    found = training.predict(model, BucketLoader(inputs[1], test.labels, **options)).argmax(1)
    return {"accuracy": 100 * training.accuracy(found, test.labels), "seconds": seconds}


settings = {n: getattr(chapter, n) for n in ("data", "examples", "epochs", "lr", "size", "device")}
columns = ("kind", "pool", "seed"), ("accuracy", "seconds")
runs = chapter.load(Runs, chapter.out / "runs.csv", settings, *columns, functions=[Reader, run])
seeds = range(chapter.seed, chapter.seed + chapter.seeds)
with chapter.interruptible("run the same command to resume"):
    runs.complete([(*net, seed) for seed in seeds for net in nets], run)

accuracy = {net: np.array([runs[*net, seed]["accuracy"] for seed in seeds]) for net in nets}
print("\n| reads | pools | mean accuracy, % (range) | s per epoch |\n| --- | --- | --- | --- |")
for net, found in accuracy.items():
    fastest = min(runs[*net, seed]["seconds"] for seed in seeds)
    spread = f"{found.mean():.1f} ({found.min():.1f} to {found.max():.1f})"
    print(f"| {' | '.join(net)} | {spread} | {fastest:.2f} |")

# %% [markdown]
# The GRU with attention reads nearly all sentences right. Pools differ in how fast they learn:
# attention and the mean pass the gradient to each word's state, the maximum to one word per
# channel, and the last state through all steps; with `--epochs 5` they are nearly equal. The
# Transformer has yet to learn what order means; `--epochs 15` brings it twenty points.
#
# ## 5. Does attention say which words count?
# Weights of attention look like an explanation: the network "looked at" these words. But they weigh
# states of the GRU, which have read other words too. The gradient says how fast the class's lead
# grows with a word's vector. Each names one word of a sentence. If that word decides, the answer
# should change when it is replaced by an unknown word.
#
# **Predict, then run:** which of the two changes more answers, and does a word drawn at random?

# %%
best = ("GRU", "attention")
run(*best, chapter.seed)
model = trained[best].eval()


def importance(words):
    """Return each word's attention, and vector times the gradient of the lead; and the answer."""
    sentence = minidl.Tensor(vocabulary.encode([words]), device=chapter.device)
    vectors = model.embedding(sentence).detach().requires_grad_()
    shares = F.softmax(model.attend.weight @ model.read(vectors, sentence != 0))
    scores = model.classify(vectors, sentence != 0)
    (scores.max() * 2 - scores.sum()).backward()
    named = {"attention": shares, "gradient": (vectors.grad * vectors).sum(2)}
    return {name: marks.numpy()[0] for name, marks in named.items()}, scores.array.argmax()


changed, same = {}, []
for words in tokens[1][: 50 if chapter.quick else 200]:
    marks, answer = importance(words)
    found = {name: abs(values).argmax() for name, values in marks.items()}
    same.append(found["attention"] == found["gradient"])
    found["a random draw"] = chapter.rng.integers(len(words))
    for name, place in found.items():
        hidden = [*words[:place], "<unk>", *words[place + 1 :]]
        changed.setdefault(name, []).append(importance(hidden)[1] != answer)
for name, flags in changed.items():
    print(f"hiding the word named by {name} changes {np.mean(flags):.0%} of the answers")
print(f"attention and gradient name the same word in {np.mean(same):.0%} of the sentences")


# %% tags=["hide-input"]
def draw_words():
    figure, ax = plots.subplots(figsize=(6, 4))
    words = tokenize("the film is not good .")
    for shift, (name, marks) in zip((-0.2, 0.2), importance(words)[0].items(), strict=True):
        look = {"color": plots.COLOURS[shift > 0], "hatch": "//" * (shift > 0), "label": name}
        ax.barh(np.arange(len(words)) + shift, 100 * abs(marks) / abs(marks).sum(), 0.4, **look)
    ax.set_yticks(range(len(words)), words)
    ax.set(xlabel="share of the sentence (%)", ylim=(len(words) - 0.5, -0.5))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


chapter.keep(draw_words, "words", 'attention may rest on a neighbour that has read "not good"')
means = [accuracy[net].mean() for net in (best, ("Transformer", "attention"), nets[0])]
chapter.result("GRU {:.1f}%, Transformer {:.1f}%, words {:.1f}%".format(*means))

# %% [markdown]
# ## What comes next
# Fill in chapters/exercises/ch16_sequences.py; `python -m pytest chapters/exercises -k ch16` tells
# you which answers are right.
#
# 1. `attend`: attention of several queries, in NumPy, with a mask.
# 2. `masked_mean`: the mean over time of padded sentences.
# 3. `gru_step`: one step of a gated recurrent unit.
#
# **Change this and explain:** remove `self.positions(...)`. Which row does the Transformer come to?
#
# **Further reading:** [Vaswani et al., Attention Is All You Need
# (2017)](https://arxiv.org/abs/1706.03762); [Jain and Wallace, Attention is not Explanation
# (2019)](https://arxiv.org/abs/1902.10186).
