"""Register a launch's runs and start nothing: ``python -m tests.sweeps.registered study=... db=...``."""

import sys

from sweeps import launch

if __name__ == "__main__":
    asked = launch.parse(sys.argv[1:])
    engine = launch.open_for_launching(asked)
    launch.register(engine, asked.request)
    engine.dispose()
