"""Random masks for the comparison of J and F with davis2017-evaluation, and how its numbers were made.

    PYTHONPATH=tests/golden:DAVIS2017_EVALUATION python tests/golden/j_and_f.py > tests/golden/j_and_f.json

with a checkout of github.com/davisvideochallenge/davis2017-evaluation (commit ac7c43f), OpenCV and scikit-image.
"""

import json
import sys

import numpy as np

SIZES = [(60, 80), (97, 64), (120, 214), (33, 150)]
SEQUENCES = 4
FRAMES = 9


def blobs(random, height, width, number):
    """(H, W) bool: a union of ellipses, in integers throughout."""
    rows, columns = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for _ in range(number):
        y, x = random.randint(height), random.randint(width)
        a, b = random.randint(2, height // 2), random.randint(2, width // 2)
        mask |= ((rows - y) * b) ** 2 + ((columns - x) * a) ** 2 <= (a * b) ** 2
    return mask


def sequences():
    """Pairs (predicted, truth) of (T, H, W) bool, with empty and full masks among them; RandomState never changes."""
    random = np.random.RandomState(7)
    for height, width in SIZES:
        for number in range(SEQUENCES):
            truth = np.stack([blobs(random, height, width, random.randint(4)) for _ in range(FRAMES)])
            predicted = np.stack([blobs(random, height, width, random.randint(4)) for _ in range(FRAMES)])
            # Every other sequence is close to the truth: a few pixels off.
            if number % 2:
                predicted = np.roll(truth, (random.randint(-6, 7), random.randint(-6, 7)), axis=(1, 2))
            if number == 3:
                predicted[2], truth[3] = True, True
            yield predicted, truth


def main():
    from davis2017.metrics import db_eval_boundary, db_eval_iou
    from davis2017.utils import db_statistics

    rows = []
    for predicted, truth in sequences():
        j, f = db_eval_iou(truth, predicted), db_eval_boundary(truth, predicted)
        rows.append(
            {"j": j.tolist(), "f": f.tolist(), "j_statistics": db_statistics(j), "f_statistics": db_statistics(f)}
        )
    json.dump([{k: list(map(float, v)) for k, v in row.items()} for row in rows], sys.stdout, indent=0)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
