"""Test accuracies of the reference study, read off its curves: one run each, in %, at some of its 1,500 epochs."""

from __future__ import annotations

EPOCHS = (1, 6, 16, 31, 76, 151, 301, 501, 1001, 1500)

# family -> rule -> test accuracy in % at EPOCHS. Settings: analyses/configs/iteration1-*.json and iteration2-*.json
READINGS: dict[str, dict[str, tuple[float, ...]]] = {
    "iteration1": {
        "bp": (54.53, 70.80, 70.75, 74.13, 75.84, 75.96, 76.08, 75.52, 75.28, 75.24),
        "dgl": (52.25, 70.97, 75.64, 72.63, 75.06, 77.01, 77.28, 77.18, 77.18, 76.70),
        "dni": (41.60, 52.23, 57.46, 59.18, 60.32, 61.45, 64.25, 64.66, 60.19, 58.14),
        "cdni": (41.16, 53.76, 59.51, 63.14, 68.00, 70.30, 73.35, 71.37, 71.63, 70.28),
    },
    "iteration2-basic-cnn": {
        "bp": (48.73, 67.24, 72.86, 76.68, 81.59, 83.05, 84.61, 85.34, 85.97, 86.11),
        "dgl": (47.37, 66.07, 73.00, 75.88, 81.96, 82.56, 84.25, 82.08, 86.04, 86.24),
    },
    "iteration2-vgg16": {
        "bp": (52.95, 81.57, 87.90, 90.37, 91.50, 91.63, 92.20, 92.65, 92.86, 92.85),
        "dgl": (48.05, 74.60, 82.47, 85.64, 86.72, 87.69, 88.37, 88.28, 88.67, 88.45),
    },
}


def of_family(family: str) -> dict[str, tuple[float, ...]]:
    """The readings that belong to a family of items: ``iteration1-fast-w64`` is compared with those of ``iteration1``."""
    for name in sorted(READINGS, key=len, reverse=True):
        if family.startswith(name) or family.replace("-fast", "").startswith(name):
            return READINGS[name]
    return {}
