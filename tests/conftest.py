"""For all tests: one torch thread (two tests run side by side), which sleeps while it waits (worldmodel/cli.py).

Read when torch is loaded, so set before any test module is.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
