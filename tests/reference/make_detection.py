"""Ask pycocotools for average precisions, and store them: `detection.npz`.

Run it from the repository's root with pycocotools==2.0.11 installed:

    python -m tests.reference.make_detection
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

THRESHOLDS = (0.5, 0.75, 1.0)


def drawn(seed: int) -> dict[str, np.ndarray]:
    """Draw objects of 3 classes on 6 images, and detections near them or anywhere, in rows."""
    rng = np.random.default_rng(seed)
    objects, found = [], []
    for image in range(6):
        for _ in range(rng.integers(0, 5)):
            low, side, label = rng.integers(0, 20, 2), rng.integers(4, 16, 2), rng.integers(1, 4)
            objects.append([image, *low, *(low + side), label])
            for _ in range(rng.integers(0, 3)):
                moved = np.array([*low, *(low + side)]) + rng.integers(-2, 3, 4) * (seed % 3 > 0)
                other = label if rng.random() < 0.8 else rng.integers(1, 4)
                found.append([image, *moved, other, round(rng.random(), 2)])
        for _ in range(rng.integers(0, 3)):
            low = rng.integers(0, 20, 2)
            box = [*low, *(low + rng.integers(4, 16, 2))]
            found.append([image, *box, rng.integers(1, 4), round(rng.random(), 1)])
    return {"objects": np.array(objects, float), "found": np.array(found, float)}


def answers(case: dict[str, np.ndarray]) -> np.ndarray:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO()
    boxes = [[x1, y1, x2 - x1, y2 - y1] for _, x1, y1, x2, y2, _ in case["objects"]]
    rows = zip(case["objects"], boxes, strict=True)
    coco.dataset = {
        "images": [{"id": i} for i in range(6)],
        "categories": [{"id": i} for i in range(1, 4)],
        "annotations": [
            {
                "id": number,
                "image_id": int(row[0]),
                "category_id": int(row[5]),
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for number, (row, box) in enumerate(rows, 1)
        ],
        "info": {},
    }
    coco.createIndex()
    detections = [
        {
            "image_id": int(image),
            "category_id": int(label),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for image, x1, y1, x2, y2, label, score in case["found"]
    ]
    evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
    evaluation.params.iouThrs = np.array(THRESHOLDS)
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (threshold, recall, class)
    return np.array([p[p > -1].mean() for p in precision])


if __name__ == "__main__":
    stored = {}
    for seed in range(8):
        case = drawn(seed)
        case["answers"] = answers(case)
        stored |= {f"{seed}/{name}": array for name, array in case.items()}
    np.savez_compressed(Path(__file__).parent / "detection.npz", **stored)
