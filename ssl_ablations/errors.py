"""One exception for what a command would answer by one line and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from core import terminal
from sweeps.console.errors import UserError
from sweeps.console.offered import Place
from sweeps.console.url import mask_url
from sweeps.study.files import StudyError


class AblationError(ValueError):
    """A mistake that whoever called can mend; the message names the key, its value and what is allowed."""


@contextmanager
def answered(place: Place, *mistakes: type[Exception]) -> Iterator[None]:
    """Turns the errors that commands answer, and `mistakes`, into AblationError, without passwords."""
    try:
        yield
    except (UserError, StudyError) as error:
        reason = place.complete(str(error))
    except mistakes as error:
        reason = place.complete(str(error))
    except DBAPIError as error:
        reason = f"db={mask_url(place.db)}: the database refused: {' '.join(str(error.orig).split())}"
    else:
        return
    raise AblationError(terminal.without_passwords(reason)) from None
