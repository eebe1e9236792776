"""For all tests: one torch thread, since two tests run at a time, and threads that sleep while they wait.

torch reads both variables when it is loaded, so they are set before any test module is (see `cli.command_line`).
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
