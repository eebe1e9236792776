"""For all tests: torch's threads sleep while they wait (see worldmodel/cli.py); read when torch is loaded."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
