"""What an analysis of finished runs is: its options, what it requires of a run, what it computes and stores as json.

The command line lists analyses and makes their flags from here, so a module of an analysis imports torch, and what imports it, inside its
methods only. How results are printed, drawn and put on the page is registered under the same name in ``reporting/registry.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from gradlens.runtime.errors import InputError
from gradlens.runtime.progress import Progress, no_progress

if TYPE_CHECKING:
    from gradlens.training.config import Config
    from gradlens.training.context import RunContext
    from gradlens.training.run_directory import Run

Result = dict[str, Any]  # what is stored as json
Keep = Callable[[Result], Any]  # is called with a result whenever it has grown


def option(default: Any, text: str, flag: str = "", least: int | None = None) -> Any:
    """Return a field of an analysis's ``Options`` that is a flag of its command.

    Args:
        default: where the flag is not given; with ``True`` there is a ``--no-`` form, with ``()`` the flag is repeatable.
        text: its help.
        flag: its name without dashes; default: the field's, with dashes for underscores.
        least: the smallest value that is accepted.

    """
    return field(default=default, metadata={"help": text, "flag": flag, "least": least})


@dataclass(frozen=True)
class NoOptions:
    """The options of an analysis that has none."""


def _unwatched(_: str) -> Progress:
    return no_progress


@dataclass
class Session:
    """One call of an analysis."""

    context: RunContext  # device and data folder
    options: Any  # the analysis's ``Options``
    watch: Callable[[str], Progress] = _unwatched  # gives the display of one run's progress, by its name
    notify: Callable[[str], None] = no_progress  # is called with a sentence
    shared: dict[Any, Any] = field(default_factory=dict)  # what several runs have in common, computed once


class Analysis:
    """One analysis; the first line of a subclass's docstring is the help of its command."""

    name: ClassVar[str]  # of the json file in a run's directory, and of its report in ``reporting/registry.py``
    command: ClassVar[str]
    argument: ClassVar[str] = "run directories"  # which ones the command reads; the rules that :meth:`rules` names are added
    drawn: ClassVar[str] = "folder of the figures"
    of_images: ClassVar[bool] = True  # whether it reads images and labels, which other tasks' runs have none of
    comparison: ClassVar[str] = ""  # name of the json file in the first run's directory that :meth:`compare` writes
    Options: ClassVar[type[Any]] = NoOptions
    full: ClassVar[Any] = (
        None  # ``Options`` of a look that is to be quoted, where the default ones are those of a first look; None: no such
    )

    @property
    def help(self) -> str:
        """Return the command's help."""
        return (type(self).__doc__ or "").partition("\n")[0]

    def rules(self) -> Sequence[str] | None:
        """Return the rules whose runs it reads, for the command's help; None: all."""
        return None

    def requires(self, run: Run) -> str | None:
        """Return what the analysis requires of a run and the run lacks, as a sentence; None: nothing. Here: a checkpoint."""
        return None if (run.path / "checkpoint.pt").exists() else f"{run.path} has no checkpoint.pt: the run saved none"

    def check_required(self, runs: Sequence[Run]) -> None:
        """Refuse runs that lack what :meth:`requires` names.

        Raises:
            InputError: one does.

        """
        from gradlens.tasks.registry import DEFAULT

        for run in runs:
            if self.of_images and run.config.task != DEFAULT:
                raise InputError(f"`gradlens {self.command}` reads images and labels, and {run.path} is a run of --task {run.config.task}")
            if lacking := self.requires(run):
                raise InputError(lacking)

    def check(self, runs: Sequence[Run], session: Session) -> None:
        """Check, before anything costly, what depends on data, network or options. Here: that no run is given twice.

        Raises:
            InputError: these runs cannot be analysed with these options.

        """
        from gradlens.training.run_groups import group_runs

        group_runs(runs)

    def measure(self, run: Run, session: Session, progress: Progress) -> Result:
        """Compute what the analysis finds of a run, store it as ``<name>.json`` in its directory, and return it."""
        raise NotImplementedError

    def protocol(self, run: Run, session: Session) -> Mapping[str, Any]:
        """Describe how a run's numbers are made with the session's options, as stored with them; needed where ``full`` is set."""
        raise NotImplementedError

    def widened(self, options: Any) -> dict[str, Any]:
        """Return the options to which ``full`` gives other values, with these, if all of them are at their defaults."""
        first = self.Options()
        more = {f.name: getattr(self.full, f.name) for f in fields(first) if getattr(self.full, f.name) != getattr(first, f.name)}
        return more if all(getattr(options, name) == getattr(first, name) for name in more) else {}

    def take_stored(self, runs: Sequence[Run], session: Session) -> None:
        """Use the full settings if all runs hold numbers measured with them, even if the quick ones were requested."""
        from gradlens.training.run_directory import load_result, plain

        more = {} if self.full is None or session.options.overwrite else self.widened(session.options)
        if not more:
            return
        wide = replace(session, options=replace(session.options, **more))
        results = [load_result(run.path, self.name) for run in runs]
        if all(r is not None and r.get("protocol") == plain(self.protocol(run, wide)) for run, r in zip(runs, results, strict=True)):
            session.options = wide.options
            session.notify(f"{self.name}: the numbers of --full are stored, and shown")

    def stored(self, run: Run, protocol: Mapping[str, Any], session: Session, name: str | None = None) -> Result:
        """Return what is stored of a run by the same protocol, to be returned or added to; ``{"protocol": protocol}`` where there is none.

        What was made in another way does not count, which is reported; with the option ``overwrite`` nothing does.

        Args:
            run: a run.
            protocol: how the numbers are made; it is stored with them under this key.
            session: its options, and where the sentence goes.
            name: of the file, without ``.json``; None: the analysis's.

        """
        from gradlens.training.run_directory import MADE_WITH, load_result, plain

        name = name or self.name
        found, wanted = load_result(run.path, name), plain(protocol)
        if found is None or getattr(session.options, "overwrite", False):
            return {"protocol": wanted}
        before = found.get("protocol")
        if before != wanted:
            differ = [key for key in wanted if not isinstance(before, Mapping) or before.get(key) != wanted[key]]
            session.notify(f"{run.path / name}.json was made in another way ({', '.join(differ)} differ): computed anew")
            return {"protocol": wanted}
        return {key: value for key, value in found.items() if key not in MADE_WITH}

    def store(self, run: Run, result: Result, name: str | None = None) -> Result:
        """Write a result as ``<name>.json`` into a run's directory (None: the analysis's name); returns it as a later call reads it."""
        from gradlens.training.run_directory import plain, save_result

        save_result(run.path, name or self.name, result)
        return dict(plain(result))

    def compare(self, runs: Sequence[Run], session: Session) -> Result:
        """Compare the first run with the others and store it as ``<comparison>.json``; only where ``comparison`` is set."""
        raise NotImplementedError

    def analyse(
        self,
        runs: Sequence[Run],
        context: RunContext,
        options: Any = None,
        watch: Callable[[str], Progress] = _unwatched,
        notify: Callable[[str], None] = no_progress,
    ) -> list[Result]:
        """Check all runs, then measure one after the other; each result is stored in its run's directory.

        Args:
            runs: finished runs.
            context: device and data folder.
            options: an instance of ``Options``; None: the defaults.
            watch: given a run's name, the display of its progress.
            notify: called with notices for the user.

        Returns:
            A result a run; what :meth:`compare` found is the first one's ``comparison``.

        Raises:
            InputError: no run, or runs that cannot be analysed; nothing is computed then.

        """
        session = Session(context, self.Options() if options is None else options, watch, notify)
        if not runs:
            raise InputError(f"no run was given to `gradlens {self.command}`")
        self.check_required(runs)
        self.check(runs, session)
        self.take_stored(runs, session)
        results = [self.measure(run, session, watch(run.path.name)) for run in runs]
        if self.comparison:
            results[0] = {**results[0], "comparison": self.compare(runs, session)}
        return results


class AnalysisWithTraining(Analysis):
    """An analysis of runs that are trained for it: its command takes methods, and runs that are there, and trains what is missing."""

    def default_methods(self) -> Sequence[str]:
        """Return the rules that are trained if the command gets neither methods nor runs."""
        raise NotImplementedError

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Add to the typed flags what the analysis needs of a training.

        Raises:
            InputError: flags that contradict it.

        """
        raise NotImplementedError

    def check_config(self, config: Config, context: RunContext) -> None:
        """Check that a config's run could be analysed.

        Raises:
            InputError: it could not.

        """
        raise NotImplementedError
