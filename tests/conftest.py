"""What holds for all tests."""

import gc
import os
from collections.abc import Generator

import pytest

# Before anything imports torch, here and in the processes that tests start. As many tests run at once as there are
# cores, and their tensors are small: a second thread waits, spinning, for a core that another test has.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected, 1.5 million objects, lives until the end: nothing looks through it for garbage.

    Python's collector would some twenty times while it is made, and again every ten seconds of tests, a second each.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000)  # what is frozen counts no longer: by the default it would look 14 times as often
        gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # extension modules say at exit which of their objects were never freed
