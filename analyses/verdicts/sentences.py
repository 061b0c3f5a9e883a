"""The testable sentences of the reference study and of the papers that it discusses, and where the evidence for each lies.

A sentence is one line of docs/results/claims.md. Its verdict is that of the one test, in a script's ``TESTS``, that names its key as
``primary_of``; other tests name it as what they are ``about``. A sentence without such a test says why, and what a test would cost.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from analyses.verdicts.decision import Test


class Sentence(NamedTuple):
    """A sentence that experiments can support or refute."""

    key: str
    text: str
    untested: str = ""  # why nothing tests it yet and what that would take, where nothing does
    of_field: bool = False  # said in the field, not by the reference study


class Study(NamedTuple):
    """A folder of figures/ with a results.json."""

    script: str  # of analyses/, whose TESTS are decided by it
    minutes: int  # of one core that all its runs cost, as the script's first lines say; its parts may cost less
    seeds: int  # that these minutes make, or what else its tests repeat


STUDIES: dict[str, Study] = {
    "iteration1": Study("iteration1", 196, 1),
    "learning_curves": Study("learning_curves", 56, 10),
    "simclr_augmentations": Study("simclr_ablations", 6, 5),
    "simclr_heads": Study("simclr_ablations", 21, 5),
    "simclr_batches": Study("simclr_ablations", 45, 5),
    "simclr2": Study("simclr2", 700, 5),
    "self_supervised": Study("self_supervised", 34, 5),
    "finetuning": Study("finetuning", 370, 5),
    "spoken_digits": Study("spoken_digits", 19, 12),
    "inpainting": Study("inpainting", 26, 5),
    "predicting": Study("predicting", 3, 30),
    "all_methods": Study("all_methods", 85, 10),
    "synthetic_gradient_scale": Study("synthetic_gradient_scale", 20, 10),
    "dni_unlocked": Study("dni_unlocked", 11, 10),
    "synthetic_theory": Study("synthetic_theory", 14, 10),
    "representations": Study("representations", 20, 10),
    "provable": Study("provable", 45, 10),
    "linear_separability": Study("linear_separability", 15, 10),
    "greedy_heads": Study("greedy_heads", 12, 10),
    "locking": Study("locking", 15, 3),
    "async_slowdown": Study("async_slowdown", 10, 10),
    "gradient_similarity": Study("gradient_similarity", 10, 5),
    "random_labels": Study("random_labels", 90, 3),
    "first_layer_filters": Study("first_layer_filters", 31, 2),
    "feedback_angles": Study("feedback_angles", 2, 10),
    "feedback_tables": Study("feedback_tables", 30, 10),
    "dfa_transformer": Study("dfa_transformer", 13, 5),
    "local_updates_language": Study("local_updates_language", 18, 5),
    "certificates": Study("certificates", 15, 7),
    "dfa_graphs": Study("dfa_graphs", 48, 10),
    "graph_autoencoder": Study("graph_autoencoder", 13, 5),
    "dfa_clicks": Study("dfa_clicks", 25, 5),
    "dfa_views": Study("dfa_views", 40, 3),
}

SCALES = (
    "graphs (`analyses.dfa_graphs`, 48 core-minutes), transformers (`analyses.dfa_transformer`, 13), recommenders"
    " (`analyses.dfa_clicks`, 25) and view synthesis (`analyses.dfa_views`, 40) have rows of their own below"
)
REFERENCE = "The reference study's own experiments"
OTHER_HEADS = "five heads with ten seeds at the size of `learning_curves`: 30 core-minutes"
PEAKS = (
    "the study's test curves, which no accumulator touches, show the same peaks; to make some here: 100,000 updates of five seeds and two"
    " values of Adam's epsilon, 300 core-minutes (5,400 updates had none)"
)
DEGRADED = "a constant rate and some hundred epochs beyond the best: as `learning_curves`, two rules, five seeds, 90 core-minutes"
EVENTUALLY = "augmented, 60 epochs are too few; 600 of two rules with five seeds, else as `learning_curves`: 55 core-minutes"
FORWARD = (
    "measured are blocks with late messages (backward and update locks) and a simulated timeline; sub-graphs that run ahead of their"
    " inputs as well need `dni-unlocked` on several processes, which it lacks; then three rounds of `analyses.locking`, 15 minutes"
)
VGG = "needs VGG16 on 50,000 images for 31 epochs of two rules: 6 to 10 hours of two cores, 7 minutes of a large GPU"

TASK_AGNOSTIC = (
    "one pretrained network fine-tuned on two tasks (ten classes; animals against vehicles), and its student of one of them probed on the"
    " other: after `analyses.simclr2` (700 core-minutes) 45 more for five seeds"
)
IMAGENET = (
    "needs ImageNet (1.3 million images): 90 epochs at 3,000 images a second are 11 hours of a large GPU, for bp and for each stage; on"
    " CIFAR-10 greedy stands beside bp in `analyses.all_methods`"
)
SIMCLR2 = "50 labels a class after pretraining on 50,000 images: `analyses.simclr2`, 700 core-minutes for five seeds"
HEADS = "`analyses.simclr_ablations heads`, 21 core-minutes for five seeds"
SPEECH = "`analyses.spoken_digits`, 19 core-minutes for twelve seeds"
LOCAL = "the local rules, `simclr` and `bp` of `analyses.self_supervised`: 34 core-minutes for five seeds"
PAIRS = "ten seeds of three rules of `analyses.all_methods`, compared in independent pairs: `analyses.representations`, 20 core-minutes"

SENTENCES: dict[str, tuple[Sentence, ...]] = {  # paper -> its sentences
    REFERENCE: (
        Sentence("iteration1-accuracies", "The first iteration's curves begin as the study's (epochs 1 and 5 to 7 of its 1,500)"),
        Sentence("overfits", "Both DGL and the regular model completely overfitted the training data"),
        Sentence("dni-does-not-fit", "... but DNI did not: synthetic gradients do not use the full capacity of the model"),
        Sentence("cdni-almost-fits", "... and cDNI almost did it, but not completely"),
        Sentence("dgl-outperforms", "DGL slightly outperformed the regular model (it may regularise)"),
        Sentence("dni-lags", "cDNI reached 73.7 %, DNI lags behind with 65.6 % (at their best)"),
        Sentence("dni-degrades", "... and both degraded later", DEGRADED),
        Sentence("normalisations", "Normalising helped a little bit; no significant difference between [-1,+1] and a unit gaussian"),
        Sentence("augmentation-helps", "Data augmentation significantly improved performance, from 76–77 % to 85–86 %"),
        Sentence("augmentation-less-difference", "With augmentation there is even less difference between DGL and back-prop"),
        Sentence("dgl-slower", "DGL's train loss decreased slower than regular training ..."),
        Sentence("dgl-slower-at-last", "... but eventually both reached (almost) 0", EVENTUALLY),
        Sentence("vgg", "VGG16 reaches 93.2 %, DGL on it 89.5 %: the same ballpark, slightly worse", VGG),
        Sentence("higher-rate", "Increasing the learning rate helped regular back-prop and harmed DGL"),
        Sentence("other-heads", "Different auxiliary networks may increase DGL's performance", OTHER_HEADS),
        Sentence("peaks", "The sudden peaks are a numerical issue of the accumulator of loss and accuracy", PEAKS),
    ),
    "A Simple Framework for Contrastive Learning of Visual Representations": (
        Sentence(
            "simclr-composition",
            "Composition of data augmentations is important",
            "cropping with colour against cropping: `analyses.simclr_ablations augmentations`, 6 core-minutes for five seeds",
        ),
        Sentence("simclr-nonlinear-head", "A nonlinear transformation between representation and contrastive loss helps", HEADS),
        Sentence(
            "simclr-batches",
            "Contrastive learning benefits from larger batches and more steps than supervised learning",
            "at equal updates and a scaled rate: `analyses.simclr_ablations batches`, 45 core-minutes for five seeds",
        ),
    ),
    "Big Self-Supervised Models are Strong Semi-Supervised Learners": (
        Sentence("simclr2-fewer-labels", "The fewer the labels, the more a bigger model helps", SIMCLR2),
        Sentence("simclr2-deeper-heads", "Bigger, deeper projection heads improve representation learning", HEADS),
        Sentence("simclr2-kept-layer", "A layer of the projection head is worth keeping for fine-tuning", SIMCLR2, of_field=True),
        Sentence(
            "task-agnostic", "Pretraining uses unlabelled images in a task-agnostic way, distillation in a task-specific one", TASK_AGNOSTIC
        ),
        Sentence("simclr2-distillation", "Distillation with unlabelled images improves on the fine-tuned network", SIMCLR2),
        Sentence(
            "saves-labels",
            "What is learned without labels saves labels",
            "50 labels a class after pretraining on 50,000 images: `analyses.finetuning`, 370 core-minutes for five seeds",
        ),
    ),
    "Representation Learning with Contrastive Predictive Coding": (
        Sentence("cpc-bound", "Optimising InfoNCE maximises a lower bound on mutual information", SPEECH),
        Sentence(
            "cpc-far",
            "Quite far from supervised learning",
            "the rows `bp` and `cpc` of `analyses.self_supervised`: 15 core-minutes for five seeds",
        ),
        Sentence("cpc-speech", "It learns useful representations of speech", SPEECH),
    ),
    "Context Encoders": (
        Sentence(
            "inpainting-features",
            "Inpainting learns semantically meaningful features where auto-encoders do not",
            "five seeds with probes on all test images: `analyses.inpainting`, 26 core-minutes",
        ),
    ),
    "Predicting What You Already Know Helps": (
        Sentence("predicting-sample-complexity", "Certain pretext tasks provably decrease downstream sample complexity"),
        Sentence(
            "predicting-linear",
            "Error grows linearly with the number of classes and with the views' dependence (their figure 1)",
            of_field=True,
        ),
    ),
    "Putting An End to End-to-End": (
        Sentence("local-self-supervised", "Local learning is possible in the regime of self-supervised learning", LOCAL),
    ),
    "LoCo": (
        Sentence("loco-communicates", "Overlapping enables communication between lower and upper layers", LOCAL),
        Sentence("loco-closes-gap", "LoCo closes the gap between local and end-to-end contrastive learning", LOCAL),
        Sentence("local-reaches-supervised", "Self-supervised local learning can reach supervised back-propagation", LOCAL),
    ),
    "Decoupled Neural Interfaces using Synthetic Gradients": (
        Sentence("unlocking", "Backward and update locking can be removed"),
        Sentence("forward-unlocking", "... and forward locking too: sub-graphs are updated independently and asynchronously", FORWARD),
        Sentence("dni-works", "It works ..."),
        Sentence("dni-worse", "... but (quite) worse than regular back-propagation"),
        Sentence("forward-unlocked-learns", "Predicting inputs as well, completely unlocked training still learns"),
        Sentence("cdni-closer", "A synthesiser that sees the label is closer to the true gradient", of_field=True),
        Sentence("scale", "The published gap of DNI is a matter of the synthesiser's units, not of principle", of_field=True),
    ),
    "Understanding Synthetic Gradients": (
        Sentence("critical-points", "The critical points of the original problem are maintained"),
        Sentence("linear-converges", "Learning dynamics: linear models, deep ones too, converge to the optimum"),
        Sentence("log-loss-underfits", "Learning dynamics: with the log-loss a linear synthesiser under-fits noise"),
        Sentence("implied-loss", "Learning dynamics: the loss it implies approaches the true one"),
        Sentence("layers-differ", "Layers are represented differently with synthetic gradients ...", PAIRS, of_field=True),
        Sentence("layers-differ-drastically", "... drastically, in a deep net", of_field=True),
    ),
    "A Provably Correct Algorithm for Deep Learning that Actually Works": (
        Sentence("provable-digits", "Layerwise optimisation works on hierarchically generated digits"),
        Sentence(
            "provable-cifar",
            "Layerwise optimisation ends in the same ballpark as a convolutional network on CIFAR-10 (its abstract)",
            of_field=True,
        ),
    ),
    "Greedy Layerwise Learning Can Scale to ImageNet": (
        Sentence("greedy-imagenet", "Greedy layerwise learning is competitive on ImageNet", IMAGENET),
        Sentence("local-works", "Local optimisation works"),
        Sentence("separability-rises", "Layerwise training increases linear separability of the layers' activations"),
        Sentence("deeper-auxiliary", "Auxiliary networks with more than one hidden layer work better"),
    ),
    "Decoupled Greedy Learning of CNNs": (
        Sentence("dgl-parallel", "The greedy model can be trained in parallel, with buffers between layers"),
        Sentence("dgl-slowdown", "... also where one layer is 1.2 times slower", of_field=True),
    ),
    "Parallel Training of Deep Networks with Local Updates": (
        Sentence("overlap-helps", "Overlapping of layers helps"),
        Sentence("loss-order", "Training loss: back-prop, then chunked, overlapping, greedy", of_field=True),
        Sentence("early-gradients", "Gradients of earlier layers differ from the true gradients"),
        Sentence("local-memorises-less", "Global back-propagation memorises the data set better than local greedy"),
        Sentence("filters-differ", "Local methods learn different features (the first filters look different)"),
        Sentence(
            "local-language",
            "Local updates train language models too",
            "five seeds of four rules on a small transformer: `analyses.local_updates_language`, 18 core-minutes",
        ),
        Sentence(
            "local-language-order",
            "On a language model too, loss rises from back-prop to chunked, overlapping and greedy",
            "five seeds of four rules on a small transformer: `analyses.local_updates_language`, 18 core-minutes",
            of_field=True,
        ),
    ),
    "InfoPro": (Sentence("early-information", "Local training loses information about image and label early", PAIRS, of_field=True),),
    "Random feedback weights support learning in deep neural networks": (
        Sentence("learns-to-learn", "The network learns to learn"),
        Sentence("angle-to-backprop", "The angle to back-prop decreases to below 90°"),
        Sentence("angle-to-pseudo-backprop", "The angle to the pseudo-inverse goes to zero"),
        Sentence("sign-symmetry", "Feedback with the weights' signs is far better than random feedback", of_field=True),
    ),
    "Direct Feedback Alignment": (
        Sentence("dfa-works", "Learning is possible even when the feedback path is disconnected"),
        Sentence("dfa-slightly-worse", "Works okay on CIFAR, slightly worse than back-prop"),
        Sentence(
            "feedback-tables", "... and on digits: MLPs of one to four hidden layers learn by FA and DFA nearly as well as by back-prop"
        ),
        Sentence("dfa-scales", "Scales to view synthesis, recommenders, graphs and transformers", SCALES),
        Sentence(
            "dfa-graphs", "Graph networks learn by DFA, less well than by back-prop, better than their output layer alone", of_field=True
        ),
        Sentence("dfa-graphs-near", "On graphs convolution and attention nearly match back-prop", of_field=True),
        Sentence(
            "dfa-language",
            "A transformer's layers learn by DFA: its perplexity is far below that of training its vocabulary alone",
            "five seeds on characters of a text: `analyses.dfa_transformer`, 13 core-minutes",
            of_field=True,
        ),
        Sentence(
            "dfa-language-order",
            "... its perplexity rises from back-prop to DFA at block ends (macro), inside blocks (micro), and the vocabulary alone",
            "five seeds on characters of a text: `analyses.dfa_transformer`, 13 core-minutes",
            of_field=True,
        ),
        Sentence("dfa-links", "A graph autoencoder learns by DFA, as well as by back-prop", of_field=True),
        Sentence("dfa-links-shallow", "... and far better than its last layer alone", of_field=True),
        Sentence(
            "dfa-clicks", "Recommenders learn by DFA: Deep&Cross less well than by back-prop, better than frozen layers", of_field=True
        ),
        Sentence(
            "dfa-views", "Radiance fields learn by DFA: their renders are far better than those of a trained output layer", of_field=True
        ),
        Sentence("dfa-clicks-near", "In recommenders DFA is within one point of AUC of back-prop", of_field=True),
        Sentence("dfa-graphs-propagated", "On graphs feedback along the edges is no worse than a node's own", of_field=True),
    ),
    "Textbooks of learning theory": (
        Sentence("certificates", "A block's activations are linearly separable, or a certificate shows that they are not", of_field=True),
        Sentence("regret", "An online learner's regret grows no faster than the square root of the number of examples", of_field=True),
    ),
}


def tests_of(study: str) -> Sequence[Test]:
    """The tests that a study's results decide; a script with several studies lists them by study."""
    tests: Mapping[str, Sequence[Test]] | Sequence[Test] = importlib.import_module(f"analyses.{STUDIES[study].script}").TESTS
    return tests[study] if isinstance(tests, Mapping) else tests
