"""Commands that end in a function of a package above them: by name, and these only, as no module imports upwards.

A run's id is the database's, which core does not know; a study that has ended is shown by analysis, which takes 2 s to
import, and neither is imported before it is needed.
"""

from __future__ import annotations

import importlib
from typing import Any

FUNCTIONS = {
    "core.evaluate": ("sweeps.evaluate", "main"),  # run= and study=
    "sweeps.launch": ("analysis.after_launch", "write"),  # the study's table and figures
}


class NotInstalled(ImportError):
    """The package that would go on is not here."""


def hand_over(command: str, *arguments: Any) -> Any:
    """What the function that `command` ends in answers. Raises NotInstalled where its package is missing."""
    module, function = FUNCTIONS[command]
    package = module.partition(".")[0]
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in (package, module):  # something that it imports
            raise
        raise NotInstalled(
            f"python -m {command} goes on in {module}, which is not here: install ssl-ablations whole, or start it "
            f"where the folder {package}/ is"
        ) from error
    return getattr(found, function)(*arguments)
