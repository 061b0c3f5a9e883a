"""The settings of an experiment by subject: the parts of a ``Config``."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from gradlens.data.datasets import DATASETS, DEFAULT
from gradlens.data.transforms import NORMALIZATIONS
from gradlens.models.spec import ACTIVATIONS, ATTENTIONS
from gradlens.models.zoo import MODELS
from gradlens.runtime.errors import InputError
from gradlens.training.config_fields import Settings, setting

COURSE = "Course of training"  # the panel of what one update does not depend on; `bench` and `timeline`, which time updates, leave it out


class DataSettings(Settings, frozen=True):
    """Which images and labels, and what happens to them."""

    PANEL = "Data"

    name: str = setting(
        DEFAULT,
        "{choices}, an image folder, an .npz file, or FILE.py:build",
        flat="data",
        names=DATASETS,
        synonyms=("dataset", "data-set"),
    )
    limit: int | None = setting(
        None, "train on N images, a seeded choice (default all)", ge=1, synonyms=("num-train", "train-size", "subset")
    )
    limit_test: int | None = setting(
        None, "test on N of the test images, a seeded choice (default all)", ge=1, synonyms=("num-test", "test-size")
    )
    labels: float | None = setting(
        None,
        "share of each class's images that keep their labels, as 0.01; rules without labels use the others too (default 1)",
        gt=0,
        le=1,
        synonyms=("label-fraction",),
    )
    label_noise: float = setting(
        0.0, "replace each training label with probability P by a random one, once", ge=0, le=1, synonyms=("noise",)
    )
    validation: float = setting(
        0.0, "hold out this share of the training images and test on it", ge=0, lt=1, synonyms=("val", "val-split", "holdout")
    )
    augment: bool = setting(
        False, "random flips, and crops after padding with 4 pixels", synonyms=("augmentation", "data-augmentation", "aug")
    )
    normalize: str = setting(
        "pm1", "pixels: {choices} (pm1: to -1..+1)", choices=NORMALIZATIONS, synonyms=("norm", "normalization", "normalise")
    )


class ModelSettings(Settings, frozen=True):
    """The network."""

    PANEL = "Model"

    name: str = setting(
        "basic-cnn",
        "{choices}, torchvision:NAME, or FILE.py:build",
        flat="model",
        choices=MODELS,
        own=True,
        synonyms=("arch", "architecture", "network", "net", "backbone"),
    )
    width: int | None = setting(
        None,
        "channels of basic-cnn (128); first ones of vgg, dcgan (64), resnet (64, 20/32: 16); units of mlp (256), linear (20); features"
        " of gcn, cheb, sage (16), of each head of gat (8), of transformer (128); units of deepfm, autoint, afn (400), deep-cross (1024),"
        " nerf and coordinate-mlp (128)",
        ge=1,
        synonyms=("channels", "hidden", "hidden-size", "hidden-dim"),
    )
    depth: int | None = setting(
        None,
        "blocks of basic-cnn (3), mlp (3), linear (1), or gcn, cheb, sage, gat (1); layers of transformer, nerf (4), nerf-tiny and"
        " coordinate-mlp (2); hidden layers of deepfm, autoint, afn (3), deep-cross (2)",
        ge=1,
        synonyms=("layers", "num-layers"),
    )
    stem: Literal[3, 5, 7] | None = setting(
        None, "kernel of the first convolution: {choices} (default basic-cnn and resnet-gim 5, others 3)", synonyms=("kernel-size",)
    )
    activation: str = setting("relu", "{choices}", choices=ACTIVATIONS, synonyms=("act", "nonlinearity"))
    attention: str = setting("none", "channel attention of resnet18, 20, 32, 50, 152: {choices}", choices=ATTENTIONS)
    heads: int | None = setting(
        None,
        "attention heads of gat (8), of a layer of transformer (4) or autoint (2)",
        ge=1,
        since="0.2.0",
        synonyms=("num-heads", "n-head"),
    )
    dropout: float = setting(
        0.0,
        "dropout of graph networks, transformer, and of the hidden layers of deepfm, deep-cross, autoint, afn",
        ge=0,
        lt=1,
        since="0.2.0",
        synonyms=("drop",),
    )
    attention_dropout: list[float] | None = setting(
        None, "dropout of gat's attention coefficients; two numbers, as 0.6,0: hidden layers, output layer (default 0)", since="0.2.0"
    )
    pre_norm: bool = setting(
        False, "transformer: LayerNorm before attention and feed-forward, not after their sums", since="0.2.0", synonyms=("norm-first",)
    )
    embedding: int | None = setting(
        None,
        "numbers of the vector of an id: deepfm, afn (10), deep-cross, autoint (16)",
        ge=1,
        since="0.2.0",
        synonyms=("embed-dim", "embedding-size"),
    )
    interactions: int | None = setting(
        None,
        "cross layers of deep-cross (6), attention layers of autoint (3), logarithmic neurons of afn (1500)",
        ge=1,
        since="0.2.0",
        synonyms=("cross-layers", "neurons"),
    )
    cut: str = setting("after-pool", "where blocks end: {choices}", choices=("after-pool", "before-pool"))


class OptimizerSettings(Settings, frozen=True):
    """The optimiser and its learning rate."""

    PANEL = "Training"

    name: str = setting(
        "adam",
        "{choices} (sgdw: decoupled decay)",
        flat="optimizer",
        choices=("adam", "adamw", "sgd", "sgdw", "rmsprop", "lars"),
        synonyms=("optim", "optimiser", "opt"),
    )
    lr: float = setting(3e-4, "learning rate; a rule may have its own", ge=0, allow_inf_nan=False, synonyms=("learning-rate",))
    momentum: float = setting(0.0, "momentum of sgd, sgdw, rmsprop and lars", ge=0, lt=1)
    nesterov: bool = setting(False, "Nesterov momentum for sgd and sgdw")
    beta1: float = setting(0.9, "decay of adam's and adamw's mean gradient", ge=0, lt=1, synonyms=("betas", "beta"))
    beta2: float = setting(0.999, "decay of adam's and adamw's mean squared gradient", ge=0, lt=1, since="0.2.0")
    clip: float | None = setting(
        None,
        "scale the gradient of all parameters together down to this norm (default: never)",
        gt=0,
        since="0.2.0",
        synonyms=("clip-grad", "grad-clip", "clip-grad-norm", "max-grad-norm"),
    )
    weight_decay: float = setting(
        0.0,
        "L2 penalty; with adamw and sgdw decoupled decay; with lars of weights only",
        ge=0,
        allow_inf_nan=False,
        synonyms=("wd", "decay", "l2"),
    )
    decay_blocks: int | None = setting(None, "weight decay of the first N blocks only (default all)", ge=1, since="0.2.0")
    lr_schedule: str = setting(
        "constant",
        "{choices} (step: x0.1 at 1/2 and 3/4; exponential: to a tenth; inverse-sqrt: lr is that at the end of --warmup)",
        panel=COURSE,
        choices=("constant", "cosine", "step", "exponential", "inverse-sqrt"),
        synonyms=("scheduler", "lr-scheduler", "lr-decay"),
    )
    warmup: int = setting(0, "updates of linear learning-rate warm-up", panel=COURSE, ge=0, synonyms=("warmup-steps", "lr-warmup"))

    @model_validator(mode="after")
    def _of_one_optimizer(self) -> OptimizerSettings:
        if self.name in ("adam", "adamw") and (self.momentum or self.nesterov):
            raise InputError("--momentum belongs to sgd, sgdw, rmsprop and lars, --nesterov to sgd and sgdw; adam has its own momentum")
        if (self.beta1, self.beta2) != (0.9, 0.999) and self.name not in ("adam", "adamw"):
            raise InputError("--beta1 and --beta2 belong to adam and adamw; --momentum is that of the others")
        if self.lr_schedule == "inverse-sqrt" and not self.warmup:
            raise InputError("--lr-schedule inverse-sqrt falls from the end of the warm-up: set --warmup, as 4000")
        if self.nesterov and not (self.name in ("sgd", "sgdw") and self.momentum):
            raise InputError("--nesterov needs --optimizer sgd or sgdw and a --momentum above 0")
        return self


class RecordSettings(Settings, frozen=True):
    """What is measured and kept while training."""

    PANEL = "Records"

    every: int = setting(
        10, "measure the true gradient every N updates; 0 = never", flat="record_every", ge=0, synonyms=("log-every", "log-interval")
    )
    diagnose_every: int = setting(5, "at every N-th measured update also chance, noise, feedback, descent; 0 = never", ge=0)
    keep_checkpoints: int = setting(
        0, "keep N snapshots of the weights along the way", ge=0, synonyms=("checkpoints", "snapshots", "save-every")
    )
    evaluate_train: bool = setting(False, "after each epoch evaluate the training images in eval mode too")
    online_probe: bool = setting(
        False, "per block, a linear learner on its activations, updated every step; its regret", synonyms=("probe",)
    )


class PretrainedSettings(Settings, frozen=True):
    """The run that provides the initial weights."""

    PANEL = COURSE

    run: str | None = setting(
        None, "start from the weights of this run", flat="init_from", synonyms=("pretrained", "checkpoint", "weights", "load")
    )
    keep_head: int = setting(0, "with --init-from a simclr run: keep N layers of its projection head below a new output block", ge=0)

    @model_validator(mode="after")
    def _of_a_run(self) -> PretrainedSettings:
        if self.keep_head and not self.run:
            raise InputError("--keep-head keeps layers of a pretrained run's projection head: it needs --init-from RUN")
        return self


class ParallelSettings(Settings, frozen=True):
    """What several processes share."""

    PANEL = "Ranks"

    ranks: int = setting(1, "", ge=1)  # processes that share the run; what they work on:
    mode: str = setting(
        "none",
        "{choices}: what torchrun's processes share, each batch (data; the default under torchrun) or the network (layers)",
        flat="parallel",
        choices=("none", "data", "layers"),
        synonyms=("ddp", "distributed", "strategy"),
    )
    sync_batchnorm: bool = setting(False, "with --parallel data: BatchNorm over all ranks' images", synonyms=("sync-bn",))
    record_ranks: bool = setting(False, "with --parallel data: rows of each rank's own gradient too", panel="Records")
    split: list[int] | None = setting(
        None, "with --parallel layers: blocks of each rank, as 4,5,5 (default: by cost measured at the start)"
    )
    stale: bool = setting(False, "with --parallel layers: rules that wait for a message use that of an earlier batch")
    schedule: str = setting("1f1b", "torch's pipeline schedule of bp with --parallel layers: {choices}", choices=("1f1b", "gpipe"))
    microbatches: int = setting(4, "microbatches of a batch, for bp with --parallel layers", ge=1, synonyms=("micro-batches", "chunks"))

    @model_validator(mode="after")
    def _of_what_is_shared(self) -> ParallelSettings:
        if (self.ranks > 1) != (self.mode != "none"):
            start = "torchrun --nproc-per-node N -m gradlens train METHOD starts several"
            raise InputError(f"--parallel {self.mode} with {self.ranks} process{'es' * (self.ranks > 1)}: {start}")
        for flag, wanted in (("sync_batchnorm", "data"), ("record_ranks", "data"), ("split", "layers"), ("stale", "layers")):
            if getattr(self, flag) and self.mode != wanted:
                raise InputError(f"--{flag.replace('_', '-')} belongs to --parallel {wanted}")
        return self
