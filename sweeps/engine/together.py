"""How many processes train a run together, as it is asked for and where that cannot be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sweeps.console.errors import UserError
from sweeps.console.limits import MOST_TOGETHER
from sweeps.engine.slurm.options import Options
from sweeps.study.model import Cell


def asked(arguments: Any, options: Options | None, device: str) -> int:
    """``gpus_per_run=`` of a command, or with Slurm's `options` theirs. Raises UserError where it cannot be had."""
    if options is not None and "gpus_per_run" in arguments.values:
        raise UserError("gpus_per_run: with executor=slurm say slurm.gpus_per_run=N, on slurm.nodes=N")
    size: int = options.gpus_per_run if options else arguments.whole("gpus_per_run", 1, least=1, most=MOST_TOGETHER)
    if size == 1:
        return size
    if arguments.stack() != 1:
        raise UserError(
            f"stack={arguments.values['stack']}: runs trained together share one process, and gpus_per_run={size} "
            "gives a run several: leave one of them out"
        )
    if options is None:  # jobs of a cluster see other machines than this one
        from core.configuring.config import ConfigError  # imports torch
        from core.running.ranks.processes import refuse_machine

        try:
            refuse_machine(device, size)
        except ConfigError as error:
            raise UserError(str(error)) from None
    return size


def refuse_shares(cells: Iterable[tuple[Cell, Mapping[str, Any]]], size: int) -> None:
    """Raises UserError, before anything is written, for a cell whose steps cannot be shared out to `size` processes."""
    if size == 1:
        return
    from core.configuring.config import ConfigError, from_flat  # imports torch
    from core.running.ranks.processes import refuse

    for cell, config in cells:
        try:
            refuse(from_flat(config, seed=0), size)
        except ConfigError as error:
            raise UserError(f"{cell.row_label or cell.row_key}: {error}") from None
