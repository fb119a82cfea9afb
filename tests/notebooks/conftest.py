"""Makes tools/ importable, and gives each test process a home of its own: nothing is resumed from an earlier run."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

if "STEELNB_HOME" not in os.environ or "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["STEELNB_HOME"] = tempfile.mkdtemp(prefix="steelnb-tests-")
    atexit.register(shutil.rmtree, os.environ["STEELNB_HOME"], ignore_errors=True)
