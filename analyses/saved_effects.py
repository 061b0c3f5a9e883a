"""Add to results that were saved before values a seed were the effects that their claims hold: mean, standard deviation and seeds.

A claim of those files has the mean of a difference paired by seed and its 95 % t-interval, which is all that a test of that difference
needs. These runs had three seeds, 2,000 test images and a constant rate, and their claims were known when the tests were written. Left out
are tests of more than a claim holds (means over several rules), claims whose pairs shared runs (likenesses of representations), whose
encoder was another one (infomax) or whose size was too small (three labels a class), and a block that was chosen by what the claims say.

    python -m analyses.saved_effects         # rewrites the key "effects" of some results.json under figures/; trains nothing
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analyses.training.study import HERE
from gradlens.reporting.statistics import t_quantile
from gradlens.runtime.text_files import read_json, write_text

UNTRAINED = "is read better than the untrained network (untrained)"
CLAIMS: dict[str, dict[str, str]] = {  # study -> test -> the claim that holds its effect
    "self_supervised": {
        "loco-block1-nearer": "block1: loco's gradient is nearer to the end-to-end one than simclr-local's",
        "loco-block2-nearer": "block2: loco's gradient is nearer to the end-to-end one than simclr-local's",
        "loco-like-simclr": "LoCo is as good as end-to-end SimCLR (within 2 points)",
        "loco-above-isolated": "loco is read better than simclr-local",
        "loco-reaches-bp": "local and without labels: loco is as good as backprop with labels, or a point behind",
        "bp-above-cpc": "cpc stays 5 points or more behind backprop with labels",
        **{f"{rule}-above-untrained": f"{rule} {UNTRAINED}" for rule in ("simclr-local", "context-encoder-local", "loco")},
    },
    "inpainting": {
        "inpainting-centre-above-noise": "inpainting the centre: block3 is read better than the denoising autoencoder's",
        "inpainting-centre-above-untrained": "inpainting the centre: block3 is read better than the untrained one",
        "inpainting-random-above-noise": "inpainting random shapes: block3 is read better than the denoising autoencoder's",
        "inpainting-random-above-untrained": "inpainting random shapes: block3 is read better than the untrained one",
        "inpainting-centre-error": "inpainting the centre: squared error below the mean patch's",
        "inpainting-random-error": "inpainting random shapes: squared error below the mean patch's",
    },
    "representations": {
        f"kept-{letter}-{block}": f"I(h, {letter}): {block} of bp keeps at least what dgl's keeps of the {what}"
        for letter, what in (("x", "image"), ("y", "label"))
        for block in ("block1", "block2", "block3", "top")
        if (letter, block) != ("y", "block2")
    },
}


def saved_effects(results: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Test -> the mean, standard deviation and number of seeds of the effect that a claim of a results file holds."""
    by_text = {claim["claim"]: claim for claim in results["claims"]}
    found = {}
    for test, text in wanted.items():
        (mean, low, _), n = by_text[text]["difference"], by_text[text]["seeds"]
        found[test] = {"mean": mean, "sd": (mean - low) * math.sqrt(n) / t_quantile(n - 1), "n": n}
    return found


def main() -> None:
    """Rewrite the files that hold claims and no values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, default=HERE.parent / "figures", help="folder of the results")
    figures = parser.parse_args().figures
    for study, wanted in CLAIMS.items():
        file = figures / study / "results.json"
        results = read_json(file)
        if "values" not in results:
            write_text(file, json.dumps({**results, "effects": saved_effects(results, wanted)}, indent=2) + "\n")
            print(f"wrote {file}")


if __name__ == "__main__":
    main()
