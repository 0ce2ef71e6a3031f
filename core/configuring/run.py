"""A choice of components plus a seed, and the tables of what may be chosen."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from core.configuring.stop import Stop
from core.data import DATA
from core.data.augment import Augment
from core.losses import LOSSES
from core.masks import MASKS
from core.models import ENCODERS, PREDICTORS
from core.objectives import OBJECTIVES
from core.optim import Optim
from core.targets import TARGETS
from core.terminal import close_matches
from core.weights import WEIGHTS

JUDGING = ("evals", "eval_data")  # parts of a config that no weight depends on
GROUPS: dict[str, Mapping[str, type]] = {
    "objective": OBJECTIVES,
    "data": DATA,
    "eval_data": DATA,
    "flow_data": DATA,
    "encoder": ENCODERS,
    "weights": WEIGHTS,
    "mask": MASKS,
    "target": TARGETS,
    "predictor": PREDICTORS,
    "loss": LOSSES,
}
OPTIONAL = ("mask", "target", "predictor", "loss")  # null where the objective does not use them
NULLABLE = (*OPTIONAL, "eval_data", "flow_data", "weights")
DEFAULT_METHOD, DEFAULT_SCALE = "mae", "cpu"
PRESENTATION = ("method", "scale")  # names for what the other keys say in full
Flat = dict[str, Any]


class ConfigError(ValueError):
    """The caller asked for something that is not to be had; the message says what is."""


class Precision(Enum):
    """Arithmetic of the training step; `auto` is bf16 autocast where the device has fast bf16, else float32."""

    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


class Judge(Enum):
    """Which weights of a run are judged: those of its last step, or those that a probe of held-out clips liked best."""

    last = "last"
    best = "best"


MONITORS = ("lidar", "probe")  # that cost more than those that every run has
MOST_THREADS = 1024  # more than machines have; at 100,000 the process died of a segmentation fault


@dataclass
class Runtime:
    """What may not change numbers: where and how a run is computed. Not part of a run's identity."""

    dir: str = "runs/last"  # checkpoints, TensorBoard events, pictures
    cache: str = ".cache"  # decoded and generated data
    data_root: str = "."  # a relative data.path starts here
    device: str = "auto"  # auto, cpu, cuda
    threads: int = 0  # of torch on the CPU; 0 leaves torch's choice
    workers: int = 0  # loader processes, for data that does not fit in memory; 0: some for a GPU, none on a CPU
    log_every: int = 10
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    eval_every: int = 0  # steps; 0 evaluates at the end only, as what trains the encoder further always does
    monitors: int = 20  # times along the run that the features of a few clips are looked at; 0 never
    also_monitor: list[str] = field(default_factory=list)  # lidar, probe: at a quarter of these times
    compile: bool = False  # the loss as one graph; off on a GPU too: docs/train_on_gpus.md says why
    accumulate: int = 1  # parts that a step's batch goes through the model in, for a smaller memory
    checkpoint_blocks: bool = False  # keep only each transformer block's input, and compute the rest again: memory
    tensorboard: bool = True
    tracker: str = (
        ""  # a module such as wandb or trackio that is told what is logged; it never keeps a run from training
    )
    tracker_project: str = "ssl-ablations"  # where in the tracker
    tokens_gib: float = 8.0  # memory that an evaluation on patch tokens may take for a split's
    same_data: list[str] = field(default_factory=list)  # NOW-BEFORE: files of fingerprint NOW count as those of BEFORE
    features_gib: float = 8.0  # disk that the features of runs that are judged again may take in `cache`; 0 keeps none

    def __post_init__(self) -> None:
        for name in ("dir", "cache"):
            if not getattr(self, name).strip():  # as a path it would be the folder that one stands in
                raise ValueError(f"runtime.{name} must name a folder, got {getattr(self, name)!r}; '.' is this one")
        self.dir, self.cache = (str(Path(place).expanduser()) for place in (self.dir, self.cache))
        for name in ("log_every", "checkpoint_every", "keep_checkpoints", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"runtime.{name} must be at least 1, got {getattr(self, name)}")
        if self.tokens_gib <= 0:
            raise ValueError(f"runtime.tokens_gib must be above 0, got {self.tokens_gib}")
        for name in ("threads", "workers", "eval_every", "monitors", "features_gib"):
            if getattr(self, name) < 0:
                raise ValueError(f"runtime.{name} must be at least 0, got {getattr(self, name)}")
        if self.threads > MOST_THREADS:
            raise ValueError(f"runtime.threads must be at most {MOST_THREADS}, got {self.threads}")
        for name in self.also_monitor:
            if name not in MONITORS:
                raise ValueError(
                    f"runtime.also_monitor must be a list of {', '.join(MONITORS)}, got {name!r}"
                    + close_matches(str(name), MONITORS)
                )
        if self.tracker:
            _check_tracker(self.tracker)
        for pair in self.same_data:
            if not re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]{16}", str(pair)):
                raise ValueError(
                    f"runtime.same_data must be a list of NOW-BEFORE, two fingerprints of 16 hex digits, got {pair!r}"
                )
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"runtime.device must be auto, cpu or cuda, got {self.device!r}")


def _check_tracker(name: str) -> None:
    try:
        is_there = re.fullmatch(r"\w+(\.\w+)*", name) is not None and importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package that is to hold it
        is_there = False
    if not is_there:
        how = {"trackio": ": pip install 'ssl-ablations[trackio]'", "wandb": ": pip install wandb"}.get(
            name, " with pip"
        )
        raise ValueError(
            f"runtime.tracker must be an installed module with wandb's init, such as trackio or wandb, got {name!r}; "
            f"install it{how}, or give another"
        )


@dataclass
class Run:
    """A choice of components plus a seed: all that decides one training run."""

    # Components are `Any` because OmegaConf accepts no union of dataclasses; GROUPS says what each may be.
    objective: Any = None
    data: Any = None
    eval_data: Any = None  # what the evaluations judge on; null is the data that is trained on
    flow_data: Any = None  # clips that pairs of frames are drawn from; null draws them from `data`'s clips
    encoder: Any = None
    weights: Any = None  # what the encoder starts from; null draws it at random
    mask: Any = None  # the four that an objective may do without are null then
    target: Any = None
    predictor: Any = None
    loss: Any = None
    evals: Any = field(default_factory=dict)  # name -> Evaluation
    augment: Augment = field(default_factory=Augment)
    optim: Optim = field(default_factory=Optim)
    stop: Stop = field(default_factory=Stop)
    runtime: Runtime = field(default_factory=Runtime)
    method: str = ""  # the presets it was made from; empty for a run rebuilt from its stored options
    scale: str = ""
    seed: int = 0
    precision: Precision = Precision.auto
    judge: Judge = Judge.last


SECTIONS = ("augment", "optim", "stop", "runtime")
TOP_LEVEL = ("method", "scale", "seed", "precision", "judge")


def name_of(group: str, component: object) -> str:
    return next(name for name, variant in GROUPS[group].items() if type(component) is variant)
