"""Map names of version 0.1.0 to those of 0.2.0, for errors that name the new one."""

from __future__ import annotations

import re

VERSION = "0.2.0"
MODULES = frozenset(  # of the package in version 0.1.0, all at its top
    """activations augment bench bench_ranks card charts cli_learned cli_sweep cli_timeline conditional config costs cuts diagnostics
    doctor errors experiments feedback filters flags flops gallery heads hierarchy inpainting launch laws layers layerwise lens lightning
    local loggers logistic longtable measures memorization messages method objectives online optimizers own passes patches pictures
    pipeline plan plots predictive probes process progress queues recorder report representations resnet run schedules screen sections
    sections_learned seeding self_supervised separability setup shard similarity spread studies surrogate sweep synchronised tables
    timeline timeline_pictures torchvision_models train verdict views world""".split()  # noqa: SIM905
)
METHOD = {  # of a learning rule
    "assess": "evaluate_objective",
    "depth": "num_blocks",
    "entry": "prepare_input",
    "locked": "locking_reason",
    "objection": "validate_epochs",
    "own_quantities": "method_quantities",
    "pairs": "feedback_pairs",
    "parts_at": "can_split_after",
    "readable": "num_probe_points",
    "reads": "depends_on",
    "rule": "backward_context",
    "task": "make_inputs",
    "tells_late": "supports_delayed_target",
    "top": "output_block",
}
SIGNAL = {"answer": "logits", "kept": "saved", "own": "aux_grads", "send": "messages_below"}
UPDATE = {"above": "received", "own": "aux_grads"}
DEPENDENCIES = {  # words of `reads`, now of `depends_on`
    "above": "backward_message",
    "below": "input",
    "buffer": "replay_buffer",
    "error": "output_error",
    "later": "delayed_message",
}


def renamed(old: str, new: str, what: str) -> str:
    """Return the sentence on one old name.

    >>> renamed("own", "aux_grads", "a Signal")
    '`own` of a Signal is called `aux_grads` since version 0.2.0'
    """
    return f"`{old}` of {what} is called `{new}` since version {VERSION}"


class OldModules:
    """A finder for ``sys.meta_path``, tried last: an import of a 0.1.0 module raises an error that names the new place."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Reject the modules that were at the top of the package; find no other."""
        package, _, module = name.partition(".")
        if package == "gradlens" and module in MODULES:
            raise ModuleNotFoundError(
                f"{name} was a module of version 0.1.0: since {VERSION} everything that users import is in gradlens itself"
                " (from gradlens import Method, Signal, …; dir(gradlens) lists it)",
                name=name,
            )


def hint(error: BaseException) -> str:
    """Return an addition to the message of an error caused by an old name in a rule; empty for other errors.

    >>> hint(TypeError("Signal.__new__() got an unexpected keyword argument 'kept'"))
    ' (`kept` of a Signal is called `saved` since version 0.2.0)'
    """
    text = str(error)
    if "was a module of version 0.1.0" in text:
        return ""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("gradlens."):
        return f" (since version {VERSION} everything that a rule imports is in gradlens itself: from gradlens import Method, Signal, …)"
    if isinstance(error, TypeError) and (found := re.search(r"^Signal\.__new__\(\) got an unexpected keyword argument '(\w+)'", text)):
        owner, name = "Signal", found[1]
    elif isinstance(error, AttributeError) and (found := re.search(r"^'(Signal|Update)' object has no attribute '(\w+)'", text)):
        owner, name = found[1], found[2]
    elif isinstance(error, ValueError) and (found := re.search(r"^Got unexpected field names: \['(\w+)'", text)):  # of `_replace`
        owner, name = "Signal", found[1]
    else:
        return ""
    new = (SIGNAL if owner == "Signal" else UPDATE).get(name)
    return f" ({renamed(name, new, f'a {owner}' if owner == 'Signal' else f'an {owner}')})" if new else ""
