"""Views for whoever asks with `sqlite3` or `psql`: runs, results and cells, without joins.

The same words on SQLite (3.38 or newer) and PostgreSQL. A change of them needs a migration that makes the views again.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

# The attempt of a run is its last one; `collapse` is what was said of its features, '' where nothing
# is wrong and NULL where nobody looked.
VIEWS = {
    "ab_runs": """
        select r.id as run_id, r.seed, r.state, k.method, k.scale, r.attempt, a.outcome, a.error, a.error_step,
          a.facts -> 'collapse' ->> 'said' as collapse, a.step, a.loss, a.data, a.host, a.device, a.git_sha, a.dirty,
          a.started, a.ended, r.cpu_seconds, r.gpu_seconds, r.code_epoch, k.id as config_id, k.json as json
        from sw_run r join sw_config k on k.id = r.config_id
        left join sw_attempt a on a.run_id = r.id and a.n = r.attempt""",
    "ab_results": """
        select r.id as run_id, r.seed, r.state, k.method, k.scale, v.metric, v.value, v.step
        from sw_result v join sw_run r on r.id = v.run_id join sw_config k on k.id = r.config_id
        where v.agg = 'final'""",
    "ab_cells": """
        select s.name as study, c.row_key, c.col_key, c.display ->> 'row_label' as row_label,
          c.display ->> 'col_label' as col_label, s.spec -> 'metrics' ->> 0 as main_metric,
          r.id as run_id, r.seed, r.state, c.config_id
        from sw_study s join sw_cell c on c.study_id = s.id and c.revision = s.revision
        join sw_run r on r.config_id = c.config_id
        where r.code_epoch = (select max(o.code_epoch) from sw_run o where o.config_id = c.config_id)""",
}
WITHOUT = "0004"  # the schema whose tables read as today's and that has no views
ALIKE = (WITHOUT, "0005")  # schemas that read as today's: 0006 only lets a run end in one more way


def create(connection: Connection) -> None:
    for name, query in VIEWS.items():
        connection.execute(text(f"CREATE VIEW {name} AS {query}"))


def drop(connection: Connection) -> None:
    for name in VIEWS:
        connection.execute(text(f"DROP VIEW {name}"))
