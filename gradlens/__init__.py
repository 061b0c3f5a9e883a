"""Train with backprop or a learning rule that replaces it, and measure how far its gradient is from the true one.

All public names are here and are imported when first used: ``import gradlens`` imports no torch. The layout of modules inside the
package is not part of the interface.

- compare two training loops: ``capture`` a step of each, ``diff`` the files
- measure in any code: ``compare``, ``Lens``, ``LensCallback`` (Lightning), ``measure``, ``cosine``
- write a learning rule: ``Method``, ``Signal``, ``Pass``, ``Grad``, ``Update``, ``NetworkInfo``, ``top_signal``, ``relay``, ``seeded``;
  test it: ``check_method`` (raises ``CheckFailed``); ``METHODS`` holds the built-in ones
- use your own network or data: ``ModelSpec``, ``Split``
- train and read runs: ``Config``, ``make_config``, ``RunContext``, ``train_run``, ``load`` (a run, or a ``Comparison`` with its ``runs``);
  ``comparison_table`` of several
- analyse: ``probe_module``, ``represent`` of a ``frozen_module``, ``cka_matrix``, ``linear_cka``, ``rdm``, ``certify_separability``, …

Bad input raises ``InputError``, whose message is one sentence.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gradlens._version import __version__
from gradlens.runtime.old_names import OldModules

if TYPE_CHECKING:  # the same table for type checkers, which do not run __getattr__
    from gradlens.analysis.activations import freeze_module as frozen_module
    from gradlens.analysis.captures.difference import Difference as Difference
    from gradlens.analysis.captures.difference import diff as diff
    from gradlens.analysis.linear_probe import probe_module as probe_module
    from gradlens.analysis.linear_separability import certify_separability as certify_separability
    from gradlens.analysis.logistic_regression import fit_logistic_regression as fit_logistic_regression
    from gradlens.analysis.network_similarity import cka_matrix as cka_matrix
    from gradlens.analysis.representation_similarity import effective_rank as effective_rank
    from gradlens.analysis.representation_similarity import fisher_ratio as fisher_ratio
    from gradlens.analysis.representation_similarity import linear_cka as linear_cka
    from gradlens.analysis.representation_similarity import participation_ratio as participation_ratio
    from gradlens.analysis.representation_similarity import rdm as rdm
    from gradlens.analysis.representation_similarity import rdm_correlation as rdm_correlation
    from gradlens.analysis.representations import represent as represent
    from gradlens.analysis.theory.conditional_dependence import conditional_dependence as conditional_dependence
    from gradlens.analysis.theory.layerwise_clustering import LayerwisePlan as LayerwisePlan
    from gradlens.analysis.theory.layerwise_clustering import layerwise_purities as layerwise_purities
    from gradlens.analysis.theory.layerwise_clustering import learn_layerwise as learn_layerwise
    from gradlens.analysis.theory.synthetic_gradients import exact_linear_synthesiser as exact_linear_synthesiser
    from gradlens.analysis.theory.synthetic_gradients import field_twist as field_twist
    from gradlens.analysis.theory.synthetic_gradients import implied_loss as implied_loss
    from gradlens.analysis.theory.synthetic_gradients import settle_synthesisers as settle_synthesisers
    from gradlens.analysis.theory.synthetic_gradients import small_pair as small_pair
    from gradlens.analysis.theory.synthetic_gradients import stationarity as stationarity
    from gradlens.analysis.theory.view_mixture import ViewMixture as ViewMixture
    from gradlens.data.hierarchical_digits import draw as draw_hierarchical_digits
    from gradlens.data.split import Split as Split
    from gradlens.gradients.alignment import cosine as cosine
    from gradlens.gradients.alignment import measure as measure
    from gradlens.gradients.block_pass import Grad as Grad
    from gradlens.gradients.block_pass import Pass as Pass
    from gradlens.gradients.capture import Capture as Capture
    from gradlens.gradients.capture import capture as capture
    from gradlens.gradients.compare import compare as compare
    from gradlens.gradients.lens import Lens as Lens
    from gradlens.gradients.lightning import LensCallback as LensCallback
    from gradlens.gradients.method import Method as Method
    from gradlens.gradients.network_info import NetworkInfo as NetworkInfo
    from gradlens.gradients.signal import Signal as Signal
    from gradlens.gradients.signal import Update as Update
    from gradlens.gradients.signal import relay as relay
    from gradlens.gradients.signal import top_signal as top_signal
    from gradlens.methods import METHODS as METHODS
    from gradlens.models.spec import ModelSpec as ModelSpec
    from gradlens.reporting.console import comparison_table as comparison_table
    from gradlens.runtime.errors import InputError as InputError
    from gradlens.runtime.rng import seeded as seeded
    from gradlens.runtime.step_context import current_context as current_context
    from gradlens.training.checks.check_method import check_method as check_method
    from gradlens.training.checks.trial import CheckFailed as CheckFailed
    from gradlens.training.comparison import Comparison as Comparison
    from gradlens.training.comparison import load as load
    from gradlens.training.config import Config as Config
    from gradlens.training.config import make_config as make_config
    from gradlens.training.context import RunContext as RunContext
    from gradlens.training.runs.train_run import train_run as train_run

__all__ = [
    "METHODS",
    "Capture",
    "CheckFailed",
    "Comparison",
    "Config",
    "Difference",
    "Grad",
    "InputError",
    "LayerwisePlan",
    "Lens",
    "LensCallback",
    "Method",
    "ModelSpec",
    "NetworkInfo",
    "Pass",
    "RunContext",
    "Signal",
    "Split",
    "Update",
    "ViewMixture",
    "__version__",
    "capture",
    "certify_separability",
    "check_method",
    "cka_matrix",
    "compare",
    "comparison_table",
    "conditional_dependence",
    "cosine",
    "current_context",
    "diff",
    "draw_hierarchical_digits",
    "effective_rank",
    "exact_linear_synthesiser",
    "field_twist",
    "fisher_ratio",
    "fit_logistic_regression",
    "frozen_module",
    "implied_loss",
    "layerwise_purities",
    "learn_layerwise",
    "linear_cka",
    "load",
    "make_config",
    "measure",
    "participation_ratio",
    "probe_module",
    "rdm",
    "rdm_correlation",
    "relay",
    "represent",
    "seeded",
    "settle_synthesisers",
    "small_pair",
    "stationarity",
    "top_signal",
    "train_run",
]

_HOME = {  # public name -> where it is defined
    "Capture": "gradlens.gradients.capture:Capture",
    "CheckFailed": "gradlens.training.checks.trial:CheckFailed",
    "Comparison": "gradlens.training.comparison:Comparison",
    "Config": "gradlens.training.config:Config",
    "Difference": "gradlens.analysis.captures.difference:Difference",
    "Grad": "gradlens.gradients.block_pass:Grad",
    "InputError": "gradlens.runtime.errors:InputError",
    "LayerwisePlan": "gradlens.analysis.theory.layerwise_clustering:LayerwisePlan",
    "Lens": "gradlens.gradients.lens:Lens",
    "LensCallback": "gradlens.gradients.lightning:LensCallback",
    "METHODS": "gradlens.methods:METHODS",
    "Method": "gradlens.gradients.method:Method",
    "ModelSpec": "gradlens.models.spec:ModelSpec",
    "NetworkInfo": "gradlens.gradients.network_info:NetworkInfo",
    "Pass": "gradlens.gradients.block_pass:Pass",
    "RunContext": "gradlens.training.context:RunContext",
    "Signal": "gradlens.gradients.signal:Signal",
    "Split": "gradlens.data.split:Split",
    "Update": "gradlens.gradients.signal:Update",
    "ViewMixture": "gradlens.analysis.theory.view_mixture:ViewMixture",
    "capture": "gradlens.gradients.capture:capture",
    "certify_separability": "gradlens.analysis.linear_separability:certify_separability",
    "check_method": "gradlens.training.checks.check_method:check_method",
    "cka_matrix": "gradlens.analysis.network_similarity:cka_matrix",
    "compare": "gradlens.gradients.compare:compare",
    "comparison_table": "gradlens.reporting.console:comparison_table",
    "conditional_dependence": "gradlens.analysis.theory.conditional_dependence:conditional_dependence",
    "cosine": "gradlens.gradients.alignment:cosine",
    "current_context": "gradlens.runtime.step_context:current_context",
    "diff": "gradlens.analysis.captures.difference:diff",
    "draw_hierarchical_digits": "gradlens.data.hierarchical_digits:draw",
    "effective_rank": "gradlens.analysis.representation_similarity:effective_rank",
    "exact_linear_synthesiser": "gradlens.analysis.theory.synthetic_gradients:exact_linear_synthesiser",
    "field_twist": "gradlens.analysis.theory.synthetic_gradients:field_twist",
    "fisher_ratio": "gradlens.analysis.representation_similarity:fisher_ratio",
    "fit_logistic_regression": "gradlens.analysis.logistic_regression:fit_logistic_regression",
    "frozen_module": "gradlens.analysis.activations:freeze_module",
    "implied_loss": "gradlens.analysis.theory.synthetic_gradients:implied_loss",
    "layerwise_purities": "gradlens.analysis.theory.layerwise_clustering:layerwise_purities",
    "learn_layerwise": "gradlens.analysis.theory.layerwise_clustering:learn_layerwise",
    "linear_cka": "gradlens.analysis.representation_similarity:linear_cka",
    "load": "gradlens.training.comparison:load",
    "make_config": "gradlens.training.config:make_config",
    "measure": "gradlens.gradients.alignment:measure",
    "participation_ratio": "gradlens.analysis.representation_similarity:participation_ratio",
    "probe_module": "gradlens.analysis.linear_probe:probe_module",
    "rdm": "gradlens.analysis.representation_similarity:rdm",
    "rdm_correlation": "gradlens.analysis.representation_similarity:rdm_correlation",
    "relay": "gradlens.gradients.signal:relay",
    "represent": "gradlens.analysis.representations:represent",
    "seeded": "gradlens.runtime.rng:seeded",
    "settle_synthesisers": "gradlens.analysis.theory.synthetic_gradients:settle_synthesisers",
    "small_pair": "gradlens.analysis.theory.synthetic_gradients:small_pair",
    "stationarity": "gradlens.analysis.theory.synthetic_gradients:stationarity",
    "top_signal": "gradlens.gradients.signal:top_signal",
    "train_run": "gradlens.training.runs.train_run:train_run",
}
_RENAMED = {"Place": "RunContext", "Plan": "ModelSpec", "Net": "NetworkInfo"}  # names of 0.1.0

sys.meta_path.append(OldModules)  # tried last, and only for modules that do not exist


if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used."""
        if name in _RENAMED:  # no AttributeError: ``from gradlens import`` would replace the sentence with its own
            raise ImportError(f"gradlens.{name} is called gradlens.{_RENAMED[name]} since version 0.2.0")
        if name not in _HOME:
            raise AttributeError(f"module 'gradlens' has no attribute {name!r}")
        module, attribute = _HOME[name].split(":")
        found = globals()[name] = getattr(import_module(module), attribute)  # imported once
        return found


def __dir__() -> list[str]:
    """List the public names, for completion."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
