"""Where our words become Optuna's: its tables in our database, distributions, samplers, pruners.

Imported where a search is driven or judged, never by other commands: importing Optuna takes half a second.
"""

from __future__ import annotations

import hashlib
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from sqlalchemy import Engine

from sweeps.database.opening import BUSY_TIMEOUT_S
from sweeps.study.search_space import Distribution, SearchSpec

STARTUP_TRIALS = 5  # that the median pruner lets through, as in Optuna


def open_storage(engine: Engine, *, create: bool) -> RDBStorage:
    """Optuna's tables in the database of `engine`; `create` makes them where they are missing.

    Its own revision is in `alembic_version`, ours in `sw_alembic_version`: neither sees the other's.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = engine.url.render_as_string(hide_password=False)
    is_sqlite = engine.dialect.name == "sqlite"
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY_TIMEOUT_S}} if is_sqlite else {"pool_pre_ping": True}
    # RDBStorage puts its URL through str.format: a brace in a password must be doubled.
    escaped = url.replace("{", "{{").replace("}", "}}")
    return RDBStorage(escaped, engine_kwargs=options, skip_table_creation=not create)


def distributions(spec: SearchSpec) -> dict[str, BaseDistribution]:
    return {key: _distribution(found) for key, found in spec.space.items()}


def _distribution(found: Distribution) -> BaseDistribution:
    if found.kind == "categorical":
        return CategoricalDistribution(found.choices)
    if found.kind == "int":
        return IntDistribution(int(found.low), int(found.high), log=found.log, step=int(found.step or 1))
    return FloatDistribution(found.low, found.high, log=found.log, step=found.step)


def sampler(spec: SearchSpec, number: int) -> BaseSampler:
    """The sampler for trial `number`, seeded by it.

    A sampler that went on from one seed would, after a relaunch, propose again what it began with.
    """
    seed = int.from_bytes(hashlib.blake2b(f"{spec.seed}/{number}".encode(), digest_size=4).digest(), "little")
    if spec.sampler == "random":
        return RandomSampler(seed=seed)
    if spec.sampler == "cmaes":
        return CmaEsSampler(seed=seed, warn_independent_sampling=False)
    return GPSampler(seed=seed) if spec.sampler == "gp" else TPESampler(seed=seed)


def pruner(spec: SearchSpec) -> BasePruner:
    if spec.pruner == "median":
        return MedianPruner(n_startup_trials=STARTUP_TRIALS)
    if spec.pruner == "asha":  # rungs at 1, 4, 16, ... evaluations; the best quarter goes on
        return SuccessiveHalvingPruner(min_resource=spec.eval_every, reduction_factor=4)
    return NopPruner()
