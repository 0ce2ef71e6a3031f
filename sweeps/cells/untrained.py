"""Random initialisations: one run for an encoder and its data, whatever the row it stands beside is trained with.

Of a run of no steps, no weight that is judged depends on the optimiser, the crops, the predictor, the target or the
loss. `form` is what is left of its config, so that a study with another baseline asks for the run that is there. Runs
from before that keep their configs, and `stored` finds them by the form they would have today.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, func, select

from sweeps.database.aliases import migrated
from sweeps.database.tables import CellRow, Config, RunRow, StudyRow
from sweeps.study.identity import CODE_EPOCH, digest

Flat = dict[str, Any]

KEPT = ("data", "eval_data", "encoder", "weights", "evals", "precision")
# The estimator is drawn from the seed as the encoder is; flow is read off both.
ESTIMATOR = ("objective.estimator_", "objective.flow_clip")
# One number stands for all levels of a pyramid, of however many this encoder has.
_FLOW = {"objective": "flow", **{f"objective.{name}": [1] for name in ("flow_coeffs", "var_coeffs", "cov_coeffs")}}
# Shares of a mask are of its draws alone, in batches of the run's size; the rest is what such an objective needs.
_MASKED = {"objective": "masked", "target": "pixels", "predictor": "narrow", "loss": "mse"}
_NOTHING: Flat = dict.fromkeys(("flow_data", "mask", "target", "predictor", "loss")) | {"objective": "untrained"}


def form(flat: Mapping[str, Any], metrics: Iterable[str] = ()) -> Flat:
    """The config that judges the same encoder as `flat`, of no steps, and has the least said of its training.

    `metrics` are those that are looked at: what its mask hides (mask/...) stays where it is asked for, and so does what
    flow is estimated with, wherever the run or a later evaluation (flow@clean) is judged by it.
    """
    kinds = {name.partition("/")[0].partition("@")[0] for name in (*flat.get("evals", ()), *metrics)}
    return _form(flat, with_mask="mask" in kinds, with_flow="flow" in kinds)


def _form(flat: Mapping[str, Any], *, with_mask: bool, with_flow: bool) -> Flat:
    kept = {key: value for key, value in flat.items() if _group(key) in KEPT} | _NOTHING | {"optim.steps": 0}
    if with_flow and "objective.flow_clip" in flat:
        kept |= {key: value for key, value in flat.items() if key.startswith(ESTIMATOR) or _group(key) == "flow_data"}
        kept |= _FLOW
    if with_mask and flat.get("mask"):
        kept |= {key: value for key, value in flat.items() if _group(key) == "mask" or key == "optim.batch_size"}
        kept |= _MASKED
    return kept


def _group(key: str) -> str:
    return key.partition(".")[0]


def is_judged(flat: Mapping[str, Any]) -> bool:
    """Whether a run of no steps is there for its numbers: one without evaluations is there for its pictures."""
    return flat.get("optim.steps") == 0 and bool(flat.get("evals"))


def forms(flat: Mapping[str, Any]) -> Iterator[str]:
    """The hash of every form that the run of `flat` can stand in for, whichever metrics are looked at."""
    found = [_form(flat, with_mask=mask, with_flow=flow) for mask in (False, True) for flow in (False, True)]
    yield from dict.fromkeys(map(digest, found))


def stored(connection: Connection, instance: str) -> dict[str, Flat]:
    """The configs that the database has already, by the hash of each form they stand in for.

    A study keeps the one that its table shows. Else the form itself comes first, then what was judged most often.
    """
    own = (
        select(CellRow.config_id)
        .join(StudyRow, and_(StudyRow.id == CellRow.study_id, StudyRow.revision == CellRow.revision))
        .where(StudyRow.name == instance)
    )
    mine = set(connection.scalars(own))
    done = func.count(RunRow.id)
    is_done = and_(RunRow.config_id == Config.id, RunRow.state == "done", RunRow.code_epoch == CODE_EPOCH)
    rows = connection.execute(
        select(Config.id, Config.json)
        .outerjoin(RunRow, is_done)
        .where(Config.json["optim.steps"].as_integer() == 0)
        .group_by(Config.id)
        .order_by(done.desc(), Config.id)
    ).all()
    judged = [(row.id, flat) for row in rows if is_judged(flat := migrated(row.json))]
    found: dict[str, Flat] = {}
    for config_id, flat in judged:
        if config_id in mine:
            found |= {name: flat for name in forms(flat) if name not in found}
    found = {digest(flat): flat for _, flat in judged if digest(flat) in set(forms(flat))} | found
    for _, flat in judged:
        found |= {name: flat for name in forms(flat) if name not in found}
    return found


def settled(connection: Connection, instance: str, configs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """`configs` with what the database has in the place of each random initialisation that it need not train."""
    if not any(map(is_judged, configs)):
        return list(configs)
    known = stored(connection, instance)
    return [known.get(digest(config), config) if is_judged(config) else config for config in configs]
