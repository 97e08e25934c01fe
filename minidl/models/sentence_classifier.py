"""`SentenceClassifier`: a TextCNN with all that it needs to answer about a text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from minidl.autograd import no_grad
from minidl.data import Vocabulary, tokenize
from minidl.files.jsons import parse_json
from minidl.files.weights import load_weights, save_weights
from minidl.files.whole import whole_file
from minidl.functional import softmax
from minidl.models.text_cnn import TextCNN
from minidl.tensor import Tensor


class SentenceClassifier(NamedTuple):
    """Classify texts; save and load the network together with its vocabulary and classes.

    Attributes:
        network: in evaluation mode, except while it is trained.
        vocabulary: gives tokens their indices.
        classes: the name of each class, in label order.

    Example:
        >>> vocabulary = Vocabulary(["good", "bad"])
        >>> reader = SentenceClassifier(TextCNN(4, 8).eval(), vocabulary, ["no", "yes"])
        >>> reader.encode("Good film").array.tolist()  # padded as `Vocabulary.encode` says
        [[2, 1, 0, 0, 0, 0, 0]]
        >>> reader.answer("Good film").partition(": ")[2]
        'Good film (never seen: film)'
    """

    network: TextCNN
    vocabulary: Vocabulary
    classes: Sequence[str]

    def encode(self, text: str) -> Tensor:
        """Return a text as word indices `(1, length)`, on the network's device."""
        words = [tokenize(text)]
        device = self.network.fc.weight.device
        return Tensor(self.vocabulary.encode(words, max(self.network.filter_sizes)), device=device)

    def answer(self, text: str) -> str:
        """Return the predicted class with its probability, the text, and its unknown words."""
        with no_grad():
            shares = softmax(self.network(self.encode(text)), 1).numpy()[0]
        unknown = [word for word in tokenize(text) if word not in self.vocabulary]
        note = f" (never seen: {', '.join(unknown)})" if unknown else ""
        return f"{shares.max():.0%} {self.classes[shares.argmax()]}: {text}{note}"

    def save(self, folder: Path) -> Path:
        """Write vocabulary, classes and, last, weights; return the path of the weights.

        Args:
            folder: where to write; created if missing, and an earlier classifier is replaced.
        """
        weights = folder / "weights.npz"
        weights.unlink(missing_ok=True)  # those of another run, with another vocabulary
        self.vocabulary.save(folder / "vocabulary.json")
        with whole_file(folder / "classes.json") as file:
            file.write(json.dumps(list(self.classes)).encode())
        return save_weights(self.network.state_dict(), weights)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> SentenceClassifier:
        """Read what `save` wrote; the network is in evaluation mode.

        Args:
            folder: where `save` wrote.
            device: of the network.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is damaged, or not of this network.
        """
        file, state = folder / "classes.json", load_weights(folder / "weights.npz")
        shapes = [array.shape for name, array in state.items() if name.endswith("weight")]
        try:
            classes = parse_json(file.read_bytes())
            words, *kernels, last = shapes  # of the embedding, the convolutions and `fc`
            sizes = [kernel[2] for kernel in kernels]
            network = TextCNN(words[0], words[1], kernels[0][0], sizes, last[0])
            network.load_state_dict(state)
            if not isinstance(classes, list) or len(classes) != last[0]:
                raise ValueError(f"{file.name}: got {classes}, expected {last[0]} names")
        except (ValueError, TypeError, IndexError) as error:
            raise ValueError(
                f"SentenceClassifier.load: {folder} holds no saved classifier, or is damaged "
                f"({error}); save it again"
            ) from error
        vocabulary = Vocabulary.load(folder / "vocabulary.json")
        return cls(network.eval().to(device), vocabulary, classes)
