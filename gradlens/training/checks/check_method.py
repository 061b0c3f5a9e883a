"""The checks of a learning rule, for a test suite or a notebook: ``gradlens check`` as a function."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from gradlens.gradients.method import Method
from gradlens.runtime.errors import InputError, unknown
from gradlens.training.checks.method_checks import CheckResult, run_method_checks
from gradlens.training.checks.trial import ALL_NETWORKS, NETWORKS, CheckFailed
from gradlens.training.config_fields import sentence


def check_method(
    rule: type[Method],
    options: Mapping[str, Any] | BaseModel | None = None,
    *,
    networks: Collection[str] = tuple(NETWORKS),
    on_fail: Literal["raise", "return"] = "raise",
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[CheckResult]:
    """Run all checks that every built-in learning rule passes, on small networks in float64; takes seconds.

    As scikit-learn's ``check_estimator``: nothing but the class is needed, and the first failure is raised::

        def test_my_rule():
            gradlens.check_method(MyRule, {"share": 0.5})

    Args:
        rule: a subclass of :class:`Method`.
        options: values of its ``Options``; default: their defaults.
        networks: which of ``mlp``, ``basic-cnn`` and ``resnet`` to run on; ``transformer`` is one of the language task,
            ``gcn`` and ``gat`` are of graphs.
        on_fail: ``raise`` at the first check that fails, or ``return`` all results, those of failed checks among them.
        progress: called with (done, in all, what comes next).

    Returns:
        One result for each check and network: its name ``check``, ``network``, ``failed``, what was found (``message``, empty
        if it passes), and whether it applies (``applicable``; if not, ``message`` is the reason).

    Raises:
        CheckFailed: a check fails; the message names it and the network, and how it fails.
        InputError: a network or an option that does not exist.

    """
    for network in networks:
        if network not in ALL_NETWORKS:
            raise unknown("network", network, ALL_NETWORKS)
    results = []
    for result in run_method_checks(rule, _options_of(rule, options), progress, networks):
        if result.failed and on_fail == "raise":
            raise CheckFailed(f"{rule.__name__} fails the check {result.check!r} on {result.network}: {result.message}")
        results.append(result)
    return results


def _options_of(rule: type[Method], options: Mapping[str, Any] | BaseModel | None) -> BaseModel:
    if isinstance(options, BaseModel):
        return options
    known = rule.Options.model_fields
    for name in options or {}:
        if name not in known and rule.Options.model_config.get("extra") != "allow":
            raise unknown(f"option of {rule.__name__}", name, known)
    try:
        return rule.Options(**(options or {}))
    except ValidationError as error:
        raise InputError(f"option of {rule.__name__}: {sentence(error)}") from error
