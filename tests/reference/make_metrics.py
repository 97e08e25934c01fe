"""Ask scikit-learn for the metrics that the tests compare with, and store them: `metrics.npz`.

Run it from the repository's root with scikit-learn installed (the stored file: version 1.9.1):

    python -m tests.reference.make_metrics
"""

from __future__ import annotations

import numpy as np
from sklearn import metrics

from .cases import HERE

SIZES = ((2, 30), (2, 500), (3, 10), (4, 200), (5, 50), (5, 12), (7, 300), (10, 25), (10, 400))
UNMET = ((6, 40), (9, 60), (10, 8))  # classes that neither labels nor predictions may hold


def answers(classes: int, n: int, unmet: bool, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw labels, and scores that favour the right class; return both with the answers."""
    labels = rng.integers(0, classes - 2 if unmet else classes, n)
    scores = rng.standard_normal((n, classes))
    scores[np.arange(n), labels] += rng.uniform(0, 2)
    scores[:, -1] -= 9 * unmet
    names, predicted = np.arange(classes), scores.argmax(1)
    found: dict[str, object] = {"classes": classes, "labels": labels, "scores": scores}
    found["accuracy"] = metrics.accuracy_score(labels, predicted)
    found["confusion"] = metrics.confusion_matrix(labels, predicted, labels=names)
    for average, key in ((None, "per_class"), ("macro", "macro"), ("micro", "micro")):
        found[key] = metrics.precision_recall_fscore_support(
            labels,
            predicted,
            average=average,
            labels=names if average is None else None,
            zero_division=0,
        )[:3]
    found["ks"] = np.arange(1, classes)
    found["top_k"] = [
        (labels == predicted).mean()  # for two classes, scikit-learn expects other scores
        if classes == 2
        else metrics.top_k_accuracy_score(labels, scores, k=k, labels=names)
        for k in range(1, classes)
    ]
    return {key: np.asarray(value) for key, value in found.items()}


def main() -> None:
    rng = np.random.default_rng(0)
    stored: dict[str, np.ndarray] = {}
    sizes = [(*size, False) for size in SIZES] + [(*size, True) for size in UNMET]
    for case, (classes, n, unmet) in enumerate(sizes):
        for key, value in answers(classes, n, unmet, rng).items():
            stored[f"{case}/{key}"] = value
    np.savez_compressed(HERE / "metrics.npz", cases=len(sizes), **stored)


if __name__ == "__main__":
    main()
