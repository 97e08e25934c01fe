"""Chapter 7. A convolutional network that classifies images into ten classes.

Result: test accuracy 98 to 99.8 %; takes 45 s on 2 cores of an AMD EPYC (Zen 4).
With --quick: test accuracy 5 to 30 %.
"""

# %% [markdown]
# # 7. A CNN for CIFAR-10
#
# A **convolutional neural network** (CNN) stacks what the last chapters built. A convolution looks
# for small patterns everywhere (chapter 4), ReLU keeps the positive responses, and max pooling
# halves height and width but keeps the strongest response of each 2 x 2 window (chapter 5). Layer
# after layer, edges become corners, and corners become parts of objects. Two linear layers (chapter
# 2) turn the last responses into one score for each class.
#
# **What you will learn:** how these layers form one network; how to train, measure, save and reload
# it; how to look inside. **You need:** chapters 1 to 5. The images are built in; real ones are
# downloaded once (170 MB) by `python chapters/ch07_cifar10_cnn.py --data cifar10`.

# %%
import math

import minidl
from minidl import nn, optim, training
from minidl.chapter import IMAGES, Chapter
from minidl.data import DataLoader, Normalize
from minidl.functional import cross_entropy
from minidl.inspect import grad_cam, gradient_flow, plots, saliency, summary

chapter = Chapter(
    __doc__,
    **IMAGES,  # --data, --data-dir
    epochs=({"toy": 8, "cifar10": 10, "quick": 1}, "passes over the training images"),
    batch_size=(64, "images per step"),
    lr=(1e-3, "Adam's learning rate"),
    resume=(False, "continue a run that was stopped"),
)

# %% [markdown]
# ## 1. The data
# 32 x 32 pixels, three colours, ten classes, in three parts (chapter 3): the training set changes
# the weights; the validation set is measured after each epoch, and whatever is to be chosen, such
# as the number of epochs, is chosen on it; the test set is measured once, at the end.

# %%
train, validation, test = chapter.images()
if chapter.quick:
    train, validation, test = train.first(1024), validation.first(256), test.first(256)
sizes = [f"{len(part.labels):,}" for part in (train, validation, test)]
print("{} training images, {} validation images, {} test images".format(*sizes))
print("classes:", ", ".join(train.classes))

normalize = Normalize.fit(train.images)  # mean 0, standard deviation 1 per colour
options = {"batch_size": chapter.batch_size, "transform": normalize, "device": chapter.device}
options["world"] = chapter.world  # the processes that `mpiexec` started: chapter 13
train_batches = DataLoader(train.images, train.labels, shuffle=True, **options)
validation_batches = DataLoader(validation.images, validation.labels, **options)
test_batches = DataLoader(test.images, test.labels, **options)

# %% [markdown]
# ## 2. The network
# **Predict, then run:** which layer has the most parameters, and which does the most
# multiplications? In the table, `sees` is the receptive field (chapter 4): how many pixels of the
# image one value of that layer depends on. `kB` is the size of the layer's output for one image.

# %%
model = nn.Sequential(
    nn.Conv2d(3, 32, 3),  # (n, 32, 30, 30)
    nn.ReLU(),
    nn.MaxPool2d(2),  # (n, 32, 15, 15)
    nn.Conv2d(32, 64, 3),  # (n, 64, 13, 13)
    nn.ReLU(),
    nn.MaxPool2d(2),  # (n, 64, 6, 6)
    nn.Conv2d(64, 64, 3),  # (n, 64, 4, 4)
    nn.ReLU(),
    nn.Flatten(),  # (n, 1024)
    nn.Linear(1024, 64),
    nn.ReLU(),
    nn.Linear(64, len(train.classes)),  # (n, 10): one score per class
).to(chapter.device)
table = summary(model, (3, 32, 32))
print(table)

# %% tags=["hide-input"]
draw = lambda: plots.architecture(table, (3, 32, 32))
chapter.keep(
    draw, "architecture", "convolutions add maps, pooling shrinks them: 64 of 4 x 4 values are left"
)

# %% [markdown]
# The first linear layer has more than half of the parameters but does a seventieth of the work; the
# second convolution, whose few weights are used at every pixel, does two thirds of it.
#
# ## 3. One step, and a first check
# One step of training: predict, measure the error (cross-entropy), compute each weight's share of
# the error, its gradient (`backward`), and move every weight a little against it (`adam.step()`,
# left out here). Training repeats this for every batch. **Predict, then run:** what is the loss of
# a network that has learned nothing, and gives each of ten classes about the same probability?

# %%
few = minidl.Tensor(normalize(train.images[:64]), device=chapter.device)
few_labels = minidl.Tensor(train.labels[:64], device=chapter.device)
loss = cross_entropy(model(few), few_labels)
loss.backward()  # now every parameter has its gradient
print(f"guessing has loss ln {len(train.classes)} = {math.log(len(train.classes)):.3f}", end="; ")
print(f"the untrained network has loss {loss.item():.3f}")
# Can it memorise 64 images? If it cannot, there is a bug. (The weights are restored afterwards.)
losses = training.overfit_one_batch(model, (few, few_labels), steps=40)
print(f"overfitting one batch of 64 images: loss {losses[0]:.3f} to {losses[-1]:.3f} in 40 steps")

# %% [markdown]
# ## 4. Training
# Chapters 2 and 3 write this loop out. `fit` runs the same steps, prints a line after each epoch,
# warns of common problems, and saves a **checkpoint**: all that is needed to continue. Ctrl-C stops
# after the current step; the same command with `--resume` continues, with bit-identical results.
#
# A **learning-rate schedule** lowers the rate to a tenth for the last quarter of the epochs. With
# large steps the accuracy jumps by several percentage points from one epoch to the next; with small
# ones the weights settle. The epoch of the drop depends on `--epochs`, so `--resume` refuses
# another number of epochs that would move it.

# %%
untrained = model[0].weight.numpy().copy()
adam = optim.Adam(model.parameters(), lr=chapter.lr)
drop = max(1, 3 * chapter.epochs // 4)  # epochs before the rate is lowered
with chapter.interruptible("to continue, run the same command with --resume"):
    history = training.fit(
        *(model, cross_entropy, adam, train_batches, validation_batches, chapter.epochs),
        schedule=optim.MultiStepLR(adam, milestones=[drop], gamma=0.1),
        schedule_every="epoch",
        checkpoint=chapter.out / f"run-{chapter.data}-seed{chapter.seed}",
        resume=chapter.resume,
        world=chapter.world,
    )
weights = training.save_weights(model.state_dict(), chapter.out / "weights.npz")
print("weights:", weights)

# %% tags=["hide-input"]
draw = lambda: plots.training_curves(history)
chapter.keep(
    draw, "curves", f"after epoch {drop} the rate is a tenth: the validation curves stop jumping"
)

# %% [markdown]
# ## 5. How good is it?
# Now, and only now, the test set. The **confusion matrix** counts which class is taken for which.
# **Predict, then run:** which two classes are confused most?

# %%
scores = training.predict(model, test_batches)  # (n, 10)
guesses = scores.argmax(1)
matrix = training.confusion_matrix(guesses, test.labels, len(test.classes))
print(f"{(guesses == test.labels).sum():,} of {len(test.labels):,} test images are right")
again = minidl.models.cifar10_cnn(len(train.classes))  # the same layers, with new weights
again.load_state_dict(training.load_weights(weights))
same = training.predict(again.to(chapter.device), test_batches).argmax(1) == guesses
print(f"the network with the reloaded weights agrees on {same.mean():.0%} of them")

# %% tags=["hide-input"]
draw = lambda: plots.confusion_matrix(matrix, test.classes)
chapter.keep(
    draw, "confusion", "each row is a true class, in percent; off the diagonal are the mistakes"
)

# %% tags=["hide-input"]
draw = lambda: plots.misclassified(test.images, scores, test.labels, test.classes)
chapter.keep(draw, "misclassified", "the most confident mistakes: would you have got them right?")

# %% [markdown]
# ## 6. Looking at the result
# What has the network learned, and what does an answer rest on? Five views:
#
# * Kernels: the weights of the first layer, untrained (noise) and trained.
# * Feature maps: what each layer passes on, first outlines, in the end what was found and roughly
#   where.
# * Gradient flow: does every layer still learn? Gradients that shrink by a factor of thousands on
#   their way back, so that the first layers hardly change, are called **vanishing gradients**.
# * **Saliency**: the gradient of the class's score with respect to each pixel. Where would a small
#   change of the image change the score most?
# * **Grad-CAM**: the sum of the last convolution's maps, each weighted by how much the class's
#   score depends on it; negative values become 0. Where is the evidence for the class?

# %%
before, after = untrained.mean(1), model[0].weight.numpy().mean(1)  # over the three colours
changed = abs(after - before).max((1, 2)).argsort()[:-7:-1]  # the six that changed most
batch = minidl.Tensor(normalize(test.images[:4]), device=chapter.device)
with minidl.no_grad():
    stages = [model[:depth](batch).numpy()[0] for depth in (2, 5, 8)]  # after each ReLU
evidence, slopes = grad_cam(model, model[7], batch), saliency(model, batch)
model.zero_grad()
cross_entropy(model(few), few_labels).backward()

# %% tags=["hide-input"]
rows = {"untrained": before[changed], "trained": after[changed], "response": stages[0][changed]}
draw = lambda: plots.image_rows(rows, "Six kernels", "weight")
chapter.keep(
    draw, "kernels", "noise becomes edges and spots; the response is bright where they are"
)

# %% tags=["hide-input"]
picture = test.images[0].transpose(1, 2, 0)
strongest = [[picture, *stage[stage.max((1, 2)).argsort()[:-6:-1]]] for stage in stages]
rows = dict(zip(("layer 0", "layer 3", "layer 6"), strongest, strict=True))
draw = lambda: plots.image_rows(rows)
chapter.keep(
    draw,
    "feature_maps",
    "the strongest maps after each convolution say less and less about where, more about what",
)

# %% tags=["hide-input"]
flow = "yes: the first layer's gradients (top row) are about as large as the last layer's"
chapter.keep(lambda: gradient_flow(model), "gradients", f"{flow}; nothing vanishes on the way")

# %% tags=["hide-input"]
shown, names = test.images[:4], [test.classes[guess] for guess in guesses[:4]]
draw = lambda: plots.saliency(shown, slopes, names)
chapter.keep(
    draw,
    "saliency",
    "the dark pixels lie on and around the object, hardly any on the bars beside it",
)

# %% tags=["hide-input"]
draw = lambda: plots.grad_cam(shown, evidence, names)
chapter.keep(
    draw, "grad_cam", "dark red marks the evidence: 4 x 4 values, stretched over the image"
)
chapter.result(f"test accuracy {(guesses == test.labels).mean():.2%}")

# %% [markdown]
# ## What comes next
# Chapter 8 measures how much pooling helps a network like this one. Fill in
# chapters/exercises/ch07_cifar10_cnn.py; `python -m pytest chapters/exercises -k ch07` (after `pip
# install -e '.[test]'`, the README's second command) tells you which answers are right and which
# are not there yet.
#
# 1. `normalize`: mean 0 and variance 1 per channel, using the training images' statistics for all.
# 2. `network`: build a CNN with two convolutions for images whose sides are multiples of 4.
# 3. `confusion_matrix`: count true against predicted classes, and compute each class's recall.
#
# **Change this and explain:** replace both `MaxPool2d(2)` by `AvgPool2d(2)`. The parameters stay
# the same; what happens to the accuracy of the first epochs, and why (chapter 5)?
#
# **Further reading:** [Convolutional networks](https://cs231n.github.io/convolutional-networks/)
# (CS231n); [Grad-CAM](https://arxiv.org/abs/1610.02391) (Selvaraju et al., 2017); [saliency
# maps](https://arxiv.org/abs/1312.6034) (Simonyan et al., 2013).
