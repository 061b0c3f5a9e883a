"""The reference study's first iteration: bp, dgl, dni and cdni on BasicCNN, CIFAR-10 without augmentation.

Claim: after one epoch test accuracy is 54.5 / 52.3 / 41.6 / 41.2 % (bp / dgl / dni / cdni), after six 70.8 / 71.0 % (bp / dgl): the
reference study's own curves, one run each. Here: Adam 3e-5, batch 256, inputs in [-1, +1], dni and cdni as in the references
(target=mean, zero_bias=false); bp and dgl for seven epochs, so that epochs 5–7 can be averaged, dni and cdni for one.

    python -m analyses.iteration1 --data cifar10          # about 1½ hours on two cores; interrupted, it goes on
"""

from __future__ import annotations

from statistics import fmean

from analyses.study import arguments, data_name, publish, shipped, test_accuracy, trained

DOCUMENTS = {"bp": (54.53, 70.80), "dgl": (52.25, 70.97), "dni": (41.60, None), "cdni": (41.16, None)}  # epoch 1, epoch 6
EPOCHS = {"bp": 7, "dgl": 7, "dni": 1, "cdni": 1}
WITHIN = (3.0, 4.0)  # points


def main() -> None:
    """Train or read the four runs, print ours beside the reference study's, write figures/iteration1."""
    args = arguments(__doc__ or "")
    configs = [shipped(f"iteration1-{m}", data=args.data, epochs=n, record_every=16) for m, n in EPOCHS.items()]
    runs = trained(configs, args)
    table = []
    for run in runs:
        accuracy = test_accuracy(run)
        ours = [accuracy[1], fmean(accuracy[e] for e in (5, 6, 7)) if 7 in accuracy else None]
        for when, value, theirs, within in zip(("epoch 1", "epochs 5-7"), ours, DOCUMENTS[run.config.method], WITHIN, strict=True):
            if value is not None and theirs is not None:
                verdict = "within" if abs(value - theirs) <= within else "outside"
                print(f"{run.config.method:5} {when:10}  ours {value:.2f} %  reference {theirs:.2f} %  {verdict} {within:g} points")
                table.append({"method": run.config.method, "when": when, "ours": value, "documents": theirs, "verdict": verdict})
    publish("iteration1", runs, args, {"data": data_name(args), "table": table})


if __name__ == "__main__":
    main()
