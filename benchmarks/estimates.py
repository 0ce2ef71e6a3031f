"""How near cost estimates come: every study of the database estimated from the others' runs, beside what it cost.

    python -m benchmarks.estimates [--db results/ablations.sqlite] [--write]

Each finished run that recorded its operations is estimated as if neither its study nor any run of its configs had been
recorded (a configuration that other studies share is left out of theirs too). The ratio is estimate / recorded. Runs
that took another run's weights are left out: their cost is of judging alone. What a fine-tuning computes was not
recorded, so that it is estimated here from other runs' fine-tunings, where a plan counts it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from sqlalchemy import Connection, and_, select

from benchmarks.lines import RESULTS, ROOT, arguments_of, show
from sweeps.cells.estimate import STATED_CLIPS, Estimator, Recorded, recorded
from sweeps.cells.work import Work
from sweeps.database.opening import open_database
from sweeps.database.tables import CellRow, Config, StudyRow

OUTPUT = RESULTS / "estimates.txt"


def lines(connection: Connection) -> Iterator[str]:
    runs = recorded(connection)
    yield f"{'study':34s} {'runs':>5s} {'recorded':>10s} {'estimate':>10s} {'all':>6s} {'median':>7s} {'worst':>7s}"
    every: list[float] = []
    whole: dict[str, float] = {}
    for name, configs in studies(connection).items():
        mine = [run for run in runs if run.key[0] in configs and run.state == "done" and work_of(run) is not None]
        others = [run._replace(has_checkpoint=False) for run in runs if run.key[0] not in configs]
        estimator = Estimator(others, {run.key[0]: work for run in mine if (work := work_of(run)) is not None})
        pairs = [
            (run.cost.seconds, cost.seconds)
            for run in mine
            if run.cost.seconds and (cost := estimator.left(run.key, run.steps)) is not None
        ]
        if not pairs:
            continue
        ratios = [estimate / cost for cost, estimate in pairs]
        total, estimated = (sum(values) for values in zip(*pairs, strict=True))
        every += ratios
        whole[name] = estimated / total
        yield (
            f"{name:34s} {len(pairs):5d} {total:8.0f} s {estimated:8.0f} s {whole[name]:6.2f} {median(ratios):7.2f} "
            f"{worst(ratios):7.2f}"
        )
    yield f"a run:   median {median(every):.2f}, worst {worst(every):.2f}, {share(every):.0%} within a factor of 1.5"
    values = list(whole.values())
    yield f"a study: median {median(values):.2f}, worst {worst(values):.2f}, {share(values):.0%} within a factor of 1.5"


def studies(connection: Connection) -> dict[str, set[str]]:
    """The configs of each study's current revision."""
    found: dict[str, set[str]] = {}
    rows = connection.execute(
        select(StudyRow.name, Config.hash)
        .join(CellRow, and_(CellRow.study_id == StudyRow.id, CellRow.revision == StudyRow.revision))
        .join(Config, Config.id == CellRow.config_id)
        .order_by(StudyRow.name)
    )
    for name, config in rows:
        found.setdefault(name, set()).add(config)
    return found


def work_of(run: Recorded) -> Work | None:
    """What the run recorded of its operations, as `core.forecast.operations` would count them before it ran."""
    if run.work is None or not run.features_gflop or (run.steps and run.work.training is None):
        return None
    if run.training is not None and run.training.seconds > run.cost.seconds:
        return None
    return run.work._replace(
        training=run.work.training or 0.0, clip=run.features_gflop / (run.work.clips or STATED_CLIPS)
    )


def worst(ratios: list[float]) -> float:
    return max(ratios, key=lambda ratio: max(ratio, 1 / ratio))


def share(ratios: list[float]) -> float:
    return sum(1 / 1.5 <= ratio <= 1.5 for ratio in ratios) / len(ratios)


def main() -> None:
    parser = arguments_of(__doc__, OUTPUT)
    parser.add_argument("--db", type=Path, default=ROOT / "results/ablations.sqlite")
    arguments = parser.parse_args()
    engine = open_database(f"sqlite:///{arguments.db}", read_only=True)
    with engine.connect() as connection:
        show(lines(connection), OUTPUT if arguments.write else None, benchmark=__file__)
    engine.dispose()


if __name__ == "__main__":
    main()
