"""The storms of `benchmarks.storm` over stacked runs: workers train up to four runs of one shape together.

    python -m benchmarks.storm_stacked [--storms 5] [--cells 60] [--seeds 3] [--kills 40]
                                       [--databases sqlite postgresql] [--folder PATH] [--write]

Each run has a lease, an attempt and checkpoints of its own, so that one kill ends up to four attempts at once. Counted
is what `benchmarks.storm` counts, and how many attempts began in a stack (`stacked_attempts`).
"""

from __future__ import annotations

from benchmarks.lines import RESULTS, show
from benchmarks.storm import measure

OUTPUT = RESULTS / "storm_stacked.txt"
TARGETS = {
    "stacked, sqlite": "at most 0 lost; at most 0 twice; at most 0 zombies",
    "stacked, postgresql": "at most 0 lost; at most 0 twice; at most 0 zombies",
}

if __name__ == "__main__":
    found, output = measure(__doc__, OUTPUT, ["stacked"])
    show(found, output, benchmark=__file__, software=("sqlalchemy", "psycopg"), targets=TARGETS)
