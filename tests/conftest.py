"""What holds for all tests."""

import os

# Before anything imports torch, here and in the processes that tests start. As many tests run at once as there are
# cores, and their tensors are small: a second thread waits, spinning, for a core that another test has.
os.environ.setdefault("OMP_NUM_THREADS", "1")
