"""Whether the parts of a run fit each other and its data, before anything trains or is written."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from core.configuring import plugins
from core.configuring.places import located, with_root
from core.configuring.run import OPTIONAL, ConfigError, Judge, Run, name_of
from core.configuring.tried import check_built
from core.data.fingerprint import fingerprint, same
from core.data.flow.flow_mixture import FlowMixture
from core.data.listings.remembered import kept_in
from core.evals import EVALS
from core.evals.frozen.clips import plan
from core.losses import LOSSES
from core.masks.realised import NAMES as SHARES
from core.measuring.cost import COST_METRICS, judging_names
from core.objectives import OBJECTIVES
from core.terminal import FULL, blamed
from core.types import Dataset, DataSpec, Sampling

DATA_GROUPS = ("data", "eval_data", "flow_data")
SPECS: dict[str, DataSpec] = {}  # what spec_of() has read
MEMBERS: dict[str, list[DataSpec]] = {}  # of mixtures
Labels = Mapping[str, Tensor]  # of a split, by their names


def check(run: Run) -> DataSpec:
    """Whether the parts fit each other and the data, before anything trains or is written.

    Raises ConfigError: a missing `data.path`, a patch size that does not divide the clip, a mask that cannot be drawn
    on the grid, an objective without its parts.
    """
    if not 0 <= run.seed < 2**63:
        raise ConfigError(f"seed must be a whole number in [0, 2**63), got {run.seed}")
    for group in OPTIONAL:
        if (getattr(run, group) is None) == (group in run.objective.uses):
            wanted = "needs a" if group in run.objective.uses else "uses no"
            raise ConfigError(f"{group}: objective={name_of('objective', run.objective)} {wanted} {group}")
    if run.target is not None and run.target.gives_classes != run.loss.takes_classes:
        target, loss = name_of("target", run.target), name_of("loss", run.loss)
        fitting = [name for name, variant in LOSSES.items() if variant.takes_classes == run.target.gives_classes]
        raise ConfigError(
            f"loss={loss}: target={target} is a {'class' if run.target.gives_classes else 'vector'} for each patch; "
            f"losses for that: {', '.join(fitting)}"
        )
    check_given(run)
    chosen = name_of("objective", run.objective)
    if run.optim.batch_size % run.augment.repeats:
        sizes = f"{run.augment.repeats} and {run.optim.batch_size}"
        raise ConfigError(f"augment.repeats must divide optim.batch_size, which counts every repeat; got {sizes}")
    if run.optim.batch_size < run.objective.least_batch:
        raise ConfigError(
            f"optim.batch_size must be at least {run.objective.least_batch} for objective={chosen}, which compares the "
            f"samples of a batch, got {run.optim.batch_size}"
        )
    check_parts(run)
    if run.optim.steps and not run.objective.learns:
        raise ConfigError(
            f"optim.steps={run.optim.steps}: objective={chosen} trains nothing; set optim.steps=0, or choose objective="
            f"{', '.join(name for name, variant in OBJECTIVES.items() if variant.learns)}"
        )
    check_sets(run)
    try:
        spec = spec_of(run)
        check_pairs(run, spec)
        grid = run.encoder.grid(spec)
        run.objective.check(run.encoder, spec, spec_of_pairs(run) if run.objective.num_pairs() else None)
        check_members(run, spec)
        if run.mask is not None:
            run.mask.check(grid)
        if run.weights is not None:
            run.weights.check(run.encoder, spec, Path(run.runtime.data_root))
        if run.evals:
            check_judged(run, spec)
        check_best(run)
        check_built(run, spec)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    return spec


def check_later(run: Run, trained_on: DataSpec) -> None:
    """`check` of a run that is trained: what it is judged on counts, and no longer what it learned from."""
    check_given(run)
    check_sets(run)
    try:
        check_judged(run, trained_on)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error


def check_given(run: Run) -> None:
    """Raises ConfigError for an evaluation of what the objective does not give."""
    chosen = name_of("objective", run.objective)
    for name, evaluation in run.evals.items():
        for need in set(evaluation.needs) - set(run.objective.gives):
            giving = ", ".join(key for key, variant in OBJECTIVES.items() if need in variant.gives) or "none"
            raise ConfigError(f"evals={name}: objective={chosen} gives no {need}; objectives that do: {giving}")


def check_sets(run: Run) -> None:
    """Raises ConfigError for what no data set may be called, or cannot be."""
    for group in DATA_GROUPS:
        version = getattr(getattr(run, group), "version", "")
        if not re.fullmatch(r"[\w.-]{0,40}", version):
            raise ConfigError(f"{group}.version must be up to 40 letters, digits and _ . -, got {version!r}")
    for group in ("data", "eval_data"):
        if isinstance(getattr(run, group), FlowMixture):
            raise ConfigError(
                f"{group}=flow_mixture: its batches differ in size from step to step; it is for flow_data"
            )


def check_judged(run: Run, spec: DataSpec) -> None:
    """Raise ValueError where the run's evaluations do not suit the data that they judge on, or its encoder."""
    judged_on = spec_of_judged(run)
    if not all(evaluation.sees_whole_frames for evaluation in run.evals.values()):
        plan(judged_on, spec, Sampling())
    check_needs(run, judged_on)
    for evaluation in run.evals.values():
        evaluation.check(run.encoder, spec, judged_on)


def check_parts(run: Run) -> None:
    """Whether a step's batch may be taken in parts, and blocks be computed again."""
    parts, batch_size = run.runtime.accumulate, run.optim.batch_size
    if run.runtime.checkpoint_blocks and run.encoder.has_pyramid:
        raise ConfigError(
            f"runtime.checkpoint_blocks=true: encoder={name_of('encoder', run.encoder)} has no transformer blocks; set "
            "it to false"
        )
    if parts == 1 or not run.optim.steps:
        return
    if batch_size % parts:
        raise ConfigError(f"runtime.accumulate must divide optim.batch_size, got {parts} and {batch_size}")
    for group in ("objective", "encoder", "target"):
        component = getattr(run, group)
        if component is not None and component.over_batch:
            raise ConfigError(
                f"runtime.accumulate={parts}: {group}={name_of(group, component)} has {component.over_batch} of all "
                "samples of a batch together, which its parts do not give; set runtime.accumulate=1"
            )
    if getattr(getattr(run.mask, "ragged", None), "value", "") == "pad":
        raise ConfigError(
            f"runtime.accumulate={parts}: mask.ragged=pad averages over as many places as the whole batch has; set "
            "runtime.accumulate=1, or mask.ragged=fixed"
        )


def check_best(run: Run) -> None:
    """Raise ValueError where a run is to be judged at its best step and nothing held out of training can tell which."""
    if run.judge is not Judge.best:
        return
    group = "data" if run.eval_data is None else "eval_data"
    name = name_of(group, getattr(run, group))
    reason = ""
    if not run.optim.steps:
        reason = "optim.steps=0 trains nothing that a step could be chosen of"
    elif run.objective.reads_labels and run.eval_data is None:
        learned = name_of("objective", run.objective)
        reason = f"objective={learned} learns the labels of all of data={name}, so that no clip of them is held out"
    elif not spec_of_judged(run).classes:
        reason = f"{group}={name} has no labels here, so that no clips of its train split can be held out to choose by"
    if reason:
        raise ValueError(f"judge=best: {reason}; set judge=last (the test split is never chosen by)")


def check_needs(run: Run, judged_on: DataSpec) -> None:
    """Raise ValueError naming every evaluation that needs labels, of data that has none."""
    needing = sorted(name for name, evaluation in run.evals.items() if evaluation.needs_labels)
    if judged_on.classes or not needing:
        return
    group = "data" if run.eval_data is None else "eval_data"
    rest = ",".join(sorted(run.evals.keys() - needing))
    raise ValueError(
        f"evals={','.join(needing)}: {'these need' if len(needing) > 1 else 'this needs'} labels, and "
        f"{group}={name_of(group, getattr(run, group))} has none here: take evals=[{rest}], judge on labelled data "
        "with eval_data=, or put the files of each class into a folder of its own"
    )


def check_here(run: Run) -> None:
    """Raises ConfigError where files of the run's data are not here, of sets that a plan can do without."""
    for group in DATA_GROUPS:
        if getattr(run, group) is not None:
            try:
                located(dataclasses.replace(run, data=getattr(run, group))).data.require_files()
            except ValueError as error:
                raise ConfigError(named(with_root(error, run, group), group)) from error


def check_known_labels(run: Run, known: dict[str, tuple[Labels | None, Labels | None]]) -> None:
    """Whether the run's evaluations can judge by the labels that its data has, where these are known without loading.

    `known` remembers them between the cells of a study. Raises ConfigError, naming every evaluation that cannot.
    """
    data = located(judged(run)).data
    if repr(data) not in known:
        try:
            known[repr(data)] = data.known_labels("train"), data.known_labels("test")
        except ValueError as error:
            raise ConfigError(named(str(error), "data" if run.eval_data is None else "eval_data")) from error
    train, test = known[repr(data)]
    if train is not None and test is not None and (wrong := wrong_labels(run, train, test, spec_of_judged(run))):
        raise ConfigError("; ".join(wrong))


def wrong_labels(run: Run, train: Labels, test: Labels, spec: DataSpec) -> list[str]:
    """What each evaluation says of the labels that it cannot judge by, by its name."""
    wrong = []
    for name, evaluation in sorted(run.evals.items()):
        try:
            evaluation.check_labels(train, test, spec)
        except ValueError as error:
            wrong.append(f"evals={name}: {error}")
    return wrong


def check_pairs(run: Run, spec: DataSpec) -> None:
    """Whether there are pairs of frames for an objective that learns flow, and for no other."""
    name = name_of("objective", run.objective)
    if not run.objective.num_pairs():
        if run.flow_data is not None:
            learning = [other for other, variant in OBJECTIVES.items() if "flow" in variant.gives]
            raise ValueError(
                f"flow_data={name_of('flow_data', run.flow_data)}: objective={name} learns no flow; leave flow_data "
                f"out. Objectives that do: {', '.join(learning) or 'none'}"
            )
        return
    given = "data" if run.flow_data is None else "flow_data"
    pairs = spec_of_pairs(run)
    if pairs.frames < 2:
        raise ValueError(
            f"{given}.frames must be at least 2: objective={name} learns from pairs of frames, got {pairs.frames}"
        )
    if pairs.channels != spec.channels:
        raise ValueError(f"flow_data has {pairs.channels} channels and data {spec.channels}: one encoder sees both")


def check_members(run: Run, spec: DataSpec) -> None:
    """Whether the objective can learn from every member of a mixture: each has frames of its own size."""
    mixture = located(run).flow_data
    if not isinstance(mixture, FlowMixture):
        return
    if repr(mixture) not in MEMBERS:
        MEMBERS[repr(mixture)] = mixture.specs()
    for line, member in zip(mixture.sets, MEMBERS[repr(mixture)], strict=True):
        try:
            run.objective.check(run.encoder, spec, member)
        except ValueError as error:
            raise ValueError(f"flow_data.sets: {line!r}: {error}") from error


def spec_of(run: Run) -> DataSpec:
    """The shape and labels of the run's data; the files of a data set are listed once per process, not once a cell."""
    data = located(run).data
    if repr(data) not in SPECS:
        try:
            with kept_in(Path(run.runtime.cache).expanduser()):
                SPECS[repr(data)] = data.spec()
        except ValueError as error:
            raise ValueError(with_root(error, run)) from error
    return SPECS[repr(data)]


def spec_of_pairs(run: Run) -> DataSpec:
    """`spec_of` the clips that pairs of frames are drawn from; an error names flow_data where these are others."""
    if run.flow_data is None:
        return spec_of(run)
    try:
        return spec_of(dataclasses.replace(run, data=run.flow_data))
    except ValueError as error:
        raise ValueError(named(str(error), "flow_data")) from error


def spec_of_judged(run: Run) -> DataSpec:
    """`spec_of` the data that the run is judged on; an error names eval_data where that is other data."""
    try:
        return spec_of(judged(run))
    except ValueError as error:
        raise ValueError(str(error) if run.eval_data is None else named(str(error), "eval_data")) from error


def load_split(run: Run, split: str, group: str = "data") -> Dataset:
    """A split of the run's `data`, `eval_data` or `flow_data`. Raises ConfigError when its files cannot give it."""
    data = located(dataclasses.replace(run, data=getattr(run, group))).data
    cache = Path(run.runtime.cache)
    try:
        loaded: Dataset = data.load(split, cache)
    except ValueError as error:
        raise ConfigError(named(with_root(error, run, group), group)) from error
    except OSError as error:
        if error.filename is None and error.errno in FULL:
            error.filename = str(cache)  # loading writes nowhere else
        if (at_fault := blamed(error, {"runtime.cache": cache})) is None:
            raise
        raise ConfigError(at_fault) from error
    return loaded


def check_device(name: str) -> None:
    """Raises ConfigError for `runtime.device` = "cuda" where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("runtime.device=cuda: torch sees no CUDA device here; use runtime.device=cpu or auto")


def choose_device(name: str) -> torch.device:
    """The device that `runtime.device` stands for here."""
    check_device(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def fingerprints(
    run: Run, known: dict[str, str | None] | None = None, *, groups: Collection[str] = DATA_GROUPS
) -> dict[str, str]:
    """The fingerprint of each data set that the run reads, by group; one that tells none is left out. Plugins that the
    run has parts of are among them: other source is another experiment, as other files are.

    `known` remembers them between the cells of a study. Raises ConfigError when its files cannot be found.
    """
    found: dict[str, str] = {}
    known = {} if known is None else known
    for group in groups:
        if getattr(run, group) is None:
            continue
        data = located(dataclasses.replace(run, data=getattr(run, group))).data
        if repr(data) not in known:
            try:
                known[repr(data)] = fingerprint(data, Path(run.runtime.cache).expanduser())
            except ValueError as error:
                raise ConfigError(named(with_root(error, run, group), group)) from error
        if (told := known[repr(data)]) is not None:
            found[group] = told
    return same(found | plugins.fingerprints(run), run.runtime.same_data)


def named(message: str, group: str) -> str:
    """What a component of `data` says of its options, said of those of another group."""
    return re.sub(r"(?<![\w/.])data\.", f"{group}.", message)


def judged(run: Run) -> Run:
    """The run with the data that it is judged on in the place of the data that it is trained on."""
    return run if run.eval_data is None else dataclasses.replace(run, data=run.eval_data)


def metric_names(run: Run) -> list[str]:
    """Every result that this run will record, known before it trains."""
    spec = spec_of(judged(run))
    names = [name for evaluation in run.evals.values() for name in evaluation.metrics(spec)]
    if run.mask is not None:
        names += [f"mask/{name}" for name in SHARES]
    return [*names, *COST_METRICS, *judging_names(run.evals)]


def is_left_to_others(metric: str, evals: Collection[str]) -> bool:
    """Whether an evaluation that exists, but is not among `evals`, gives names that begin like this."""
    kind, slash, _ = metric.partition("/")
    return bool(slash) and kind in EVALS and kind not in evals


def is_recorded_later(metric: str) -> bool:
    """Whether `core.evaluate` gives such names: ``linear@num_layers=4/digit_top1``. Its data may have any labels."""
    kind, at, rest = metric.removeprefix("cost/eval_").partition("@")
    return bool(at) and kind in EVALS and ("/" in rest or metric.startswith("cost/"))
