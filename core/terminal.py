"""What every command owes to who typed it: a terminal of any encoding, a reader that leaves, a folder that is full.

Of all packages' commands: it imports nothing but Python's own, so that a command which needs no torch waits for none.
"""

from __future__ import annotations

import codecs
import contextlib
import difflib
import errno
import io
import os
import re
import select
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
OK, USER_ERROR, INTERRUPTED = 0, 2, 130
_OPTION = re.compile(r"[\w.-]+")  # not the start of an SQL query, which has a "=" as well
_PLAIN = "in plain letters"  # the name of what stands for letters that an encoding does not have
_IN_ASCII = {
    "·": ".", "–": "-", "—": "--", "−": "-", "±": "+-", "×": "x", "÷": "/", "≈": "~", "≤": "<=", "≥": ">=", "†": "+",
    "→": "->", "←": "<-", "…": "...", "Δ": "delta", "τ": "tau", "µ": "u", "∞": "inf", "°": " deg", "ß": "ss",
    "“": '"', "”": '"', "’": "'", "‘": "'", "•": "*", "✓": "yes", "✗": "no",
    "█": "#", "━": "-", "╸": "-", "╺": " ", "┃": "|", "│": "|", "─": "-",
}  # fmt: skip
# Also of an address that lacks a slash, or its beginning; not the user of one that has no password, or a masked one.
_USER = re.compile(r":(?!//[\w.-]+(?::\*{3})?@[^\s@]*(?:\s|$))(//?)?\S*@")
_PASSWORD = re.compile(r"([?&]\w*pass\w*=)[^&\s'\"]*", re.IGNORECASE)
_OPEN = re.compile(r"[^@?]*|sqlite:.*")  # of a database's URL the rest may be a password


def answered(command: Callable[[], int]) -> int:
    """`command`'s exit code, whatever becomes of its output.

    A reader that has seen enough (`| head`) is no error, and Ctrl-C is told in one line.
    """
    survive_any()
    try:
        code = command()
        sys.stdout.flush()  # here, where a reader that has gone is met below
        return code
    except OSError as error:
        if not is_of_output(error):
            raise
        # What is left unwritten would be tried again, in vain, as Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return OK
        print(f"error: {error.strerror}: make room where the output goes", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def given_twice(words: Sequence[str]) -> str | None:
    """What to say where `words` give an option more than once: one of its values would silently win; None: none."""
    repeated = _repeated(words)
    times = {name: "twice" if len(values) == 2 else f"{len(values)} times" for name, values in repeated.items()}
    told = [f"{name} is given {times[name]}: {' and '.join(values)}" for name, values in repeated.items()]
    return f"{'; '.join(told)}; give one value" if told else None


def given_once(words: Sequence[str]) -> list[str]:
    """`words` without the options that are given more than once, so that what else is wrong can be told with them."""
    repeated = _repeated(words)
    return [word for word in words if word.partition("=")[0] not in repeated]


def _repeated(words: Sequence[str]) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if equals and _OPTION.fullmatch(name):
            given.setdefault(name, []).append(value if _OPEN.fullmatch(value) else "a value that may hold a password")
    return {name: values for name, values in given.items() if len(values) > 1}


def close_matches(word: str, allowed: Iterable[str], *, is_open: bool = True) -> str:
    """The words " (did you mean x?)", or none when no allowed word is close. Of a dotted `word` that has a misspelt
    beginning (`maks.ratio`) the whole with another one, where `is_open`: words may go on below the allowed ones."""
    words, (root, dot, rest) = list(dict.fromkeys(allowed)), word.partition(".")
    # Of two letters that changed places, half match: too few for a word as short as db.
    close = difflib.get_close_matches(word, words, n=3) or [near for near in words if sorted(near) == sorted(word)]
    if dot and is_open:
        roots = [f"{near}.{rest}" for near in difflib.get_close_matches(root, words, n=1) if "." not in near]
        close = [near for near in close if "." in near] or roots or close
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def unknown_options(
    names: Sequence[str], allowed: Sequence[str], *, near: Sequence[str] = (), beside: str = "", is_open: bool = True
) -> str:
    """What to say of options that a command does not have; `near` are other words that may have been meant. `is_open`:
    it takes words below its options (mask.ratio)."""
    told = [f"{name}{close_matches(name, [*allowed, *near], is_open=is_open)}" for name in names]
    if len(told) == 1:
        text = f"{names[0]}: unknown option{told[0].removeprefix(names[0])}"
    else:
        text = f"{', '.join(told)}: unknown options"
    return f"{text}; options: {', '.join(allowed)}{beside}"


def without_passwords(text: str) -> str:
    """`text`, in which a word may be a database's URL that was typed at another option's place."""
    return _PASSWORD.sub(r"\1***", _USER.sub(r":\1***@", text))


def told_from_the_start() -> None:
    """Ctrl-C while a command's modules are still imported (torch takes seconds) is told in one line as well.

    Called as a package is imported: for `python -m`, which alone makes a command of one, that comes first.
    """
    if getattr(sys, "argv", [])[:1] != ["-m"]:
        return
    before = sys.excepthook

    def told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            before(kind, error, trace)
            return
        print("interrupted", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)  # else Python ends by the signal, and whatever is half imported has its say

    sys.excepthook = told


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Processes that start in here never hear Ctrl-C, which reaches all of a terminal's at once: who starts them tells
    them to stop. One that comes meanwhile is told to this process afterwards.

    Else one that still imports (torch takes seconds) ends with a traceback.
    """
    from multiprocessing import resource_tracker  # most commands start no process

    resource_tracker.ensure_running()  # which multiprocessing does first, and lets interrupts through by it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def survive_any() -> None:
    """Letters that the terminal's encoding does not have (–, ±) are replaced, rather than ending the program: marks by
    others that differ as they do, so that `·`, none, `–`, not known yet, and `?`, unknown, stay apart.
    """
    codecs.register_error(_PLAIN, _plain)
    # Closed (`>&-`, some services): Python has None there, and libraries write to it all the same.
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_PLAIN)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What stands for what could not be encoded: a mark's own words, a letter without its accent, or `?`."""
    assert isinstance(error, UnicodeEncodeError)
    lost = error.object[error.start : error.end]
    plain = (unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() for letter in lost)
    return "".join(_IN_ASCII.get(one) or found or "?" for one, found in zip(lost, plain, strict=True)), error.end


def _nowhere() -> io.TextIOWrapper:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123  (open as long as the program runs)


def is_of_output(error: OSError) -> bool:
    """Whether it came of writing to the terminal, and of no file that has a name: a worker's pipe may break too."""
    if error.filename is not None:
        return False
    return _reader_has_gone() if isinstance(error, BrokenPipeError) else error.errno in FULL


def _reader_has_gone() -> bool:
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        try:
            poll.register(stream.fileno(), select.POLLOUT)
        except (OSError, ValueError):  # no file of the system's
            continue
    return any(event & select.POLLERR for _, event in poll.poll(0))


def blamed(error: OSError, folders: Mapping[str, Path]) -> str | None:
    """What to say of a file that could not be written in one of `folders` (by the option that names it); None: in none.

    Of folders within one another the innermost is blamed.
    """
    if error.filename is None:
        return None
    file = Path(os.fsdecode(error.filename)).absolute()
    places = {option: (folder, folder.expanduser().absolute()) for option, folder in folders.items()}
    for option, (folder, place) in sorted(places.items(), key=lambda item: -len(item[1][1].parts)):
        if file.is_relative_to(place) or place.is_relative_to(file):
            if (at_fault := next((one for one in (file, *file.parents) if one.is_file()), None)) is not None and (
                error.errno in (errno.EEXIST, errno.ENOTDIR)
            ):
                return f"{option}={folder}: cannot be written to: {at_fault} is a file; give a folder"
            return f"{option}={folder}: cannot be written to: {error.strerror} ({file}); make room or give another"
    return None
