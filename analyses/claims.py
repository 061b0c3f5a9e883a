"""Write docs/results/claims.md: every testable sentence of the reference study and its papers, with script, verdict and numbers.

Reads the results that the scripts here have saved under figures/; trains nothing. A sentence that nothing tests yet says so.

    python -m analyses.claims
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from analyses.study import HERE, told, weighed
from gradlens.reporting.statistics import Interval
from gradlens.runtime.text_files import read_json, write_text

Results = Mapping[str, Any]  # a results.json
Judged = dict[str, Any]  # a row of its claims


class Sentence(NamedTuple):
    """A sentence of the reference study, or of a paper that it discusses."""

    text: str
    script: str = ""  # of analyses/, which writes figures/<script>/results.json; "": not yet tested
    find: Callable[[Results], list[Judged]] | str = ""  # how its verdicts are found there; a word: in every claim that holds it
    note: str = ""
    folder: str = ""  # under figures/, where it is not called as the script


def holding(word: str) -> Callable[[Results], list[Judged]]:
    """The saved claims whose text holds a word."""
    return lambda results: [claim for claim in results.get("claims", []) if word in claim["claim"]]


def any_of(*words: str) -> Callable[[Results], list[Judged]]:
    """The saved claims whose text holds one of some words."""
    return lambda results: [claim for claim in results.get("claims", []) if any(word in claim["claim"] for word in words)]


# ----------------------------------------------------------------- results that were saved as intervals, not as claims


def _interval(values: Any, seeds: int = 3) -> Interval:
    mean, low, high = (math.nan if v is None else float(v) for v in values)
    return Interval(mean, low, high, seeds)


def head_gains(results: Results) -> list[Judged]:
    """greedy_heads: what a second hidden layer gains."""
    wanted = {
        "stage 1: 2 - 1 hidden": "after stage 1",
        "stage 3: 2 - 1 hidden": "after stage 3, whose head is the network's own top in both",
    }
    return [
        weighed(f"two hidden layers above one {when}", _interval(results["gains"][key]), "points", at_least=0)
        for key, when in wanted.items()
    ]


def lost_to_slowdown(results: Results) -> list[Judged]:
    """async_slowdown: what dgl-async loses against dgl where one unit is slow."""
    return [
        weighed(f"no more than a point lost to dgl: {key}", _negated(_interval(lost)), "points", at_least=-1)
        for key, lost in results["lost"].items()
        if "S=1.2" in key
    ]


def _negated(value: Interval) -> Interval:
    return Interval(-value.mean, -value.high, -value.low, value.n)


def early_layers(results: Results) -> list[Judged]:
    """gradient_similarity: how far from 1 the last comparable cosine of each layer is."""
    last = {row["layer"]: row for row in results["table"] if row["ours"] is not None}  # readings are in order of iterations
    found = []
    for layer in sorted(last):
        row = last[layer]
        away = Interval(1 - row["ours"], 1 - row["high"], 1 - row["low"], len(results["seeds"]))
        if layer < 5:
            found.append(
                weighed(f"layer {layer}'s cosine at least 0.1 below 1 after {row['iteration']:,} iterations", away, "", at_least=0.1)
            )
        else:
            found.append(weighed(f"layer {layer}'s (the last) is 1 after {row['iteration']:,} iterations", away, "", within=1e-6))
    return found


def angles(to: str) -> Callable[[Results], list[Judged]]:
    """feedback_angles: the angles at the end to what another rule would tell the hidden layer."""

    def find(results: Results) -> list[Judged]:
        found = []
        for row in results["angles"]["readings"]:
            if row["to"] != to or row["when"] not in ("end", "from 15,000 on"):
                continue
            value = Interval(row["ours"], row["low"], row["high"], len(results["seeds"]))
            scale = f"initial weights ±{row['scale']}"
            if to == "backprop":
                below = Interval(90 - value.mean, 90 - value.high, 90 - value.low, value.n)
                found.append(weighed(f"angle to backprop below 90°, {scale}", below, "degrees below", at_least=0))
            else:
                found.append(weighed(f"angle to the pseudo-inverse goes to zero (below 3°), {scale}", value, "degrees", within=3))
        return found

    return find


def learns(results: Results) -> list[Judged]:
    """feedback_angles: the race."""
    needed = results["race"]["found"]["fa"]["examples_to_nse_0.01"]
    seeds = len(results["seeds"])
    claim = "fa reaches a normalised error of 0.01 within 1,500 examples, which training the top alone never does"
    return [weighed(claim, _negated(_interval(needed, seeds)), "examples, negated", at_least=-1500)]


def peaked(results: Results) -> list[Judged]:
    """learning_curves: what test accuracy did at the peaks, if there were any."""
    nothing = Interval(math.nan, math.nan, math.nan, 0)
    return holding("at a peak")(results) or [weighed("no peak of the training loss occurred in the runs", nothing, "points", within=1)]


def near_the_reference(results: Results) -> list[Judged]:
    """iteration1: accuracies beside the reference study's."""
    within, found = {"epoch 1": 3.0, "epochs 5-7": 4.0}, []
    for row in results["table"]:
        away = Interval(row["ours"] - row["documents"], math.nan, math.nan, 1)
        found.append(weighed(f"{row['method']}, {row['when']}: ours − the reference study's", away, "points", within=within[row["when"]]))
    return found


# ------------------------------------------------------------------------------------------------------- the sentences

LINEAR_ALIKE = "in the linear model cdni's accuracy equals bp's in all five seeds, with either labelling"
GAP = "separable labels: the gap falls from 0.98 to 0.37 after 100 updates and is 0.93 after 1,500; it approaches and leaves again"
DEFAULT_DNI = "ours are gradlens's defaults, target=sum and zero_bias=true; the study has target=mean and zero_bias=false"
OWN = "The reference study's own experiments"
SENTENCES: dict[str, tuple[Sentence, ...]] = {
    OWN: (
        Sentence(
            "Accuracies of the first iteration (regular, DGL, DNI, cDNI)", "iteration1", near_the_reference, "one seed decides nothing"
        ),
        Sentence("Both DGL and the regular model completely overfitted the training data", "learning_curves", "completely fits"),
        Sentence("… but DNI didn't", "learning_curves", "dni does not fit", DEFAULT_DNI),
        Sentence(
            "… and cDNI “almost” did it but not completely", "learning_curves", any_of("cdni almost", "cdni not completely"), DEFAULT_DNI
        ),
        Sentence(
            "DGL slightly outperformed the regular model (77.6 against 76.5 %)", "learning_curves", "without augmentation: dgl above bp"
        ),
        Sentence(
            "cDNI reached 73.7 %, DNI lags behind with 65.6 %", "learning_curves", any_of("bp above cdni", "cdni above dni"), DEFAULT_DNI
        ),
        Sentence("Data normalization helped a little bit", "learning_curves", "normalising to"),
        Sentence("No significant difference between [-1,+1] and a unit gaussian", "learning_curves", "unit gaussian"),
        Sentence("Data augmentation significantly improved performance, from 76–77 % to 85–86 %", "learning_curves", "augmentation "),
        Sentence("With augmentation there is even less difference between DGL and back-prop", "learning_curves", "augmented, dgl and bp"),
        Sentence("DGL's train loss decreased slower than regular training", "learning_curves", "falls more slowly"),
        Sentence("… but eventually both reached (almost) 0 loss", note="needs some hundred epochs with augmentation"),
        Sentence(
            "VGG16 93.2 % (BasicCNN 86.5 %); DGL on VGG16 worse than back-prop (89.5 %)",
            note="`analyses.iteration2` is the script; only short runs so far",
        ),
        Sentence(
            "Increasing the learning rate helped regular back-prop and harmed DGL",
            "learning_curves",
            "higher learning rate",
            "theirs on VGG16, ours on BasicCNN",
        ),
        Sentence("Different auxiliary networks may increase DGL's performance", note="`--set head=`; not yet compared with intervals"),
        Sentence("The sudden peaks are a numerical issue of the accumulator of loss and accuracy", "learning_curves", peaked),
    ),
    "A Simple Framework for Contrastive Learning of Visual Representations": (
        Sentence("Composition of data augmentations is important", "simclr_ablations", "beat", folder="simclr_augmentations"),
        Sentence(
            "A nonlinear transformation between representation and contrastive loss helps",
            "simclr_ablations",
            "a head of 2",
            folder="simclr_heads",
        ),
        Sentence(
            "Contrastive learning benefits from larger batches and more steps than supervised learning",
            "simclr_ablations",
            "gains",
            folder="simclr_batches",
        ),
    ),
    "Big Self-Supervised Models are Strong Semi-Supervised Learners": (
        Sentence("The fewer the labels, the more a bigger model helps", "simclr2", "the widest net"),
        Sentence(
            "Bigger, deeper projection heads improve representation learning", "simclr_ablations", "a head of 3", folder="simclr_heads"
        ),
        Sentence("… and a layer of them is worth keeping for fine-tuning", "simclr2", "keeping the head"),
        Sentence("Distillation with unlabelled images improves on the fine-tuned network", "simclr2", "a distilled student"),
        Sentence("What is learned without labels saves labels", "self_supervised", "beats one from scratch", folder="finetuning"),
    ),
    "Representation Learning with Contrastive Predictive Coding": (
        Sentence("Optimising InfoNCE maximises a lower bound on mutual information", "self_supervised", "cpc: the bound"),
        Sentence("Quite far from supervised learning", "self_supervised", "behind backprop"),
    ),
    "Context Encoders": (
        Sentence("Inpainting learns semantically meaningful features where auto-encoders do not", "inpainting", "the autoencoder's"),
    ),
    "Predicting What You Already Know Helps": (
        Sentence(
            "Certain pretext tasks provably decrease downstream sample complexity",
            "predicting",
            any_of("X1 needs", "less excess risk", "labels^-1", "errs less"),
            "Gaussian simulation of their figure 1, 30 trials",
        ),
        Sentence(
            "Error grows linearly with the number of classes and with conditional dependence (their figure 1)",
            "predicting",
            any_of("is linear in", "to the power of"),
        ),
        Sentence("The advantage lasts the shorter, the more dependent the views are", "predicting", "X1 overtakes"),
    ),
    "Putting An End to End-to-End": (
        Sentence(
            "Local learning is possible in the regime of self-supervised learning", "self_supervised", "infomax is read better than the un"
        ),
    ),
    "LoCo": (
        Sentence(
            "Overlapping enables communication between lower and upper layers",
            "all_methods",
            "overlap above dgl",
            "supervised overlap, not LoCo",
        ),
        Sentence(
            "LoCo closes the gap between local and end-to-end contrastive learning",
            "self_supervised",
            any_of("LoCo is", "loco is read better than s"),
        ),
        Sentence(
            "Self-supervised local learning can reach supervised back-propagation", "self_supervised", "local and without labels: loco"
        ),
    ),
    "Decoupled Neural Interfaces using Synthetic Gradients": (
        Sentence(
            "Backward, update and forward locking can all be removed",
            note="what each rule waits for: `gradlens list methods --long`, a property of its code",
        ),
        Sentence("It works …", "all_methods", "dni above untrained"),
        Sentence("… but (quite) worse than regular back-propagation", "all_methods", "bp above dni"),
        Sentence("A synthesiser that sees the label is closer to the true gradient", "all_methods", "cdni above dni"),
    ),
    "Understanding Synthetic Gradients": (
        Sentence(
            "The critical points of the original problem are maintained",
            "synthetic_theory",
            any_of("critical points are kept", "spurious fixed point", "label-blind"),
            "linear nets, squared loss",
        ),
        Sentence(
            "Learning dynamics: linear models, deep ones too, converge to the optimum",
            "synthetic_theory",
            any_of("convergence:", "closed form:"),
        ),
        Sentence(
            "Learning dynamics: with the log-loss a linear synthesiser under-fits noise", "synthetic_theory", "log-loss:", LINEAR_ALIKE
        ),
        Sentence("Learning dynamics: the loss it implies approaches the true one", "synthetic_theory", "implied loss:", GAP),
        Sentence("Layers are represented differently with synthetic gradients", "representations", "bp and dni"),
        Sentence("… drastically, in a deep net", "synthetic_theory", "representations of", "digits, MLP of ten hidden layers"),
    ),
    "A Provably Correct Algorithm for Deep Learning that Actually Works": (
        Sentence("Layerwise optimisation works on hierarchically generated digits", "provable", "digits"),
        Sentence("… and ends in the same ballpark as a convolutional network on CIFAR-10 (its abstract)", "provable", "CIFAR-10"),
    ),
    "Greedy Layerwise Learning Can Scale to ImageNet": (
        Sentence("Local optimisation works", "all_methods", "dgl above untrained", "dgl; greedy has one seed there"),
        Sentence("Layerwise training increases linear separability of the layers' activations", "linear_separability", ""),
        Sentence("Auxiliary networks with more than one hidden layer work better", "greedy_heads", head_gains),
    ),
    "Decoupled Greedy Learning of CNNs": (
        Sentence("The greedy model can be trained in parallel, with buffers between layers", "all_methods", "dgl-async"),
        Sentence("… also where one layer is 1.2 times slower", "async_slowdown", lost_to_slowdown),
    ),
    "Parallel Training of Deep Networks with Local Updates": (
        Sentence("Overlapping of layers helps", "all_methods", "overlap above dgl"),
        Sentence("Training loss: back-prop, then chunked, overlapping, greedy", "all_methods", "training loss"),
        Sentence("Gradients of earlier layers differ from the true gradients", "gradient_similarity", early_layers),
        Sentence("Global back-propagation memorises the data set better than local greedy", "random_labels", ""),
        Sentence("Local methods learn different features (the first filters look different)", "first_layer_filters", ""),
    ),
    "InfoPro (of the field, for local rules)": (
        Sentence("Local training loses information about image and label early", "representations", "I(h,"),
    ),
    "Random feedback weights support learning in deep neural networks": (
        Sentence("The network “learns to learn”", "feedback_angles", learns),
        Sentence("The angle to back-prop decreases to below 90°", "feedback_angles", angles("backprop")),
        Sentence("The angle to the pseudo-inverse goes to zero", "feedback_angles", angles("pseudo-backprop")),
        Sentence("Feedback with the weights' signs is far better than random feedback", "all_methods", "points above fa"),
    ),
    "Direct Feedback Alignment": (
        Sentence("Learning is possible even when the feedback path is disconnected", "all_methods", "dfa above untrained"),
        Sentence("Works okay, slightly worse than back-prop", "all_methods", "bp above dfa"),
        Sentence("Scales to view synthesis, recommenders, graphs and transformers", note="out of reach here: no such data"),
    ),
}


# ------------------------------------------------------------------------------------------------------------ the page


def verdicts(sentence: Sentence, figures: Path) -> list[Judged]:
    """The judged claims behind a sentence; [] where nothing tests it or its script has not been run yet.

    Raises:
        KeyError: the script's results hold no such claim.

    """
    file = figures / (sentence.folder or sentence.script) / "results.json"
    if not sentence.script or not file.exists():
        return []
    find = holding(sentence.find) if isinstance(sentence.find, str) else sentence.find
    found = find(read_json(file))
    if not found:
        raise KeyError(f"{file} holds no claim for {sentence.text!r}")
    return found


HEAD = """\
# Claims, one by one

`python -m analyses.claims` writes this page from the verdicts that the scripts saved; do not edit it. It lists the testable sentences of
the [reference study](index.md#the-reference-study) and of the papers that the study discusses. The scripts compare runs of the same seed.
A claim is *supported* if its whole 95 % interval over seeds lies on the wanted side of the bound, *not supported* if the whole interval
lies on the other side, and *undecided* otherwise. One seed decides nothing. A verdict holds for the size that was run: small networks on
subsets of CIFAR-10 (JPEG copy), unless the script says otherwise. The first lines of each script
(`analyses/SCRIPT.py`) state its size and its cost."""


def lines(figures: Path) -> Iterator[str]:
    """The lines of docs/results/claims.md."""
    yield HEAD
    for title, sentences in SENTENCES.items():
        yield from ("", f"## {title}", "", "| sentence | tested as | verdict | measured | script |", "|---|---|---|---|---|")
        for sentence in sentences:
            yield from _rows(sentence, verdicts(sentence, figures))


def _rows(sentence: Sentence, found: list[Judged]) -> Iterator[str]:
    """A sentence's lines of its table: one a judged claim."""
    script = f"`{sentence.script}`" if sentence.script else "–"
    if not found:
        why = "its script has not been run to its end" if sentence.script else sentence.note
        yield f"| {sentence.text} | – | *not yet tested*: {why} | – | {script} |"
    text = sentence.text + (f" ({sentence.note})" if sentence.note else "")
    for claim in found:
        yield f"| {text} | {claim['claim']} | {claim['verdict']} | {told(claim)} | {script} |"
        text = ""


def main() -> None:
    """Write docs/results/claims.md and print how many verdicts of each kind it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, default=HERE.parent / "figures", help="folder of the results")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "results" / "claims.md")
    args = parser.parse_args()
    text = "\n".join(lines(args.figures)) + "\n"
    write_text(args.out, text)
    for word in ("supported", "not supported", "undecided"):
        print(f"{word}: {text.count(f'| {word} |')}")
    print(f"not yet tested: {text.count('*not yet tested*')}")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
