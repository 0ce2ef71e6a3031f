import platform
import resource
import subprocess
import sys

import pytest

CODE = """
import resource, sys
import torch
from core.measuring.kept_memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(3):
    torch.ones(2**24).sum()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**24).sum()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such switch")
def test_freed_tensors_are_not_faulted_in_again() -> None:
    pages = 2**26 // resource.getpagesize()  # of one tensor; 20 are made
    assert page_faults("give back") > 10 * pages
    assert page_faults("keep") < 8 * pages  # where the heap's layout is unlucky a few are made anew: 3.8 seen
