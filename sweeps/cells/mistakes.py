"""Everything that is wrong with a study, said at once: equal mistakes once, with all the rows that make them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sweeps.console.errors import UserError
from sweeps.study.files import several
from sweeps.study.model import Cell


class Mistakes:
    """Of the cells of a study. `typed` are the keys of the command line, whose mistakes are no fault of the file."""

    def __init__(self, path: Path, cells: Sequence[Cell], typed: Sequence[str] = ()) -> None:
        self.path, self.cells, self.typed = path, cells, typed
        self.found: dict[str, list[Cell]] = {}

    def add(self, message: object, cell: Cell | None = None) -> None:
        """One a line of `message`; without a cell it is the study's as a whole."""
        for line in str(message).splitlines():
            self.found.setdefault(line, [])
            if cell is not None:
                self.found[line].append(cell)

    def settle(self) -> None:
        """Raises UserError of all that was added, if anything was."""
        of_command = [message for message in self.found if any(message.startswith(key) for key in self.typed)]
        of_file = [f"{self._where(cells)}{text}" for text, cells in self.found.items() if text not in of_command]
        lines = [*of_command, *([several(str(self.path), of_file)] if of_file else [])]
        if lines:
            raise UserError("\n".join(lines))

    def _where(self, cells: Sequence[Cell]) -> str:
        if not cells:
            return ""
        own = [cell for cell in cells if not cell.is_random_init] or list(cells)  # the free row is the baseline's
        if len(own) > 1 and len(own) == sum(not cell.is_random_init for cell in self.cells):
            return "every row: "
        by_row: dict[str, list[Cell]] = {}
        for cell in own:
            by_row.setdefault(cell.row_key, []).append(cell)
        width = len({cell.col_key for cell in self.cells})
        whole = [row for row, listed in by_row.items() if len(listed) == width]
        parts = [f"row{'s' if len(whole) > 1 else ''} {', '.join(map(repr, whole))}"] if whole else []
        parts += [place(cell) for row, listed in by_row.items() if row not in whole for cell in listed]
        return f"{'; '.join(parts)}: "


def place(cell: Cell) -> str:
    return f"row {cell.row_key!r}" + (f", column {cell.col_key!r}" if cell.col_key else "")
