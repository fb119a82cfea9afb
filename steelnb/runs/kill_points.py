"""What a file holds after the process that writes it was killed, before each line.  Taught in 09_hundred_hours."""

import inspect
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

PROGRAM = """
import os, sys
from pathlib import Path
{definition}
code, lines = {name}.__code__, 0
def before_a_line(frame, event, _):
    global lines
    lines += event == "line"
    if event == "line" and lines == {number}:
        os._exit(9)  # as a kill: nothing is flushed, closed or cleared away
    return before_a_line
sys.settrace(lambda frame, event, _: before_a_line if frame.f_code is code else None)
{name}(Path(sys.argv[1]), b"new" * 1000)
"""


def contents_after_kills(write: Callable[[Path, bytes], None]) -> list[str]:
    """What a file with old content holds after a kill before each line of `write`, and last after its normal end.

    write: a function of this library, or one whose source needs only `os` and `Path`.
    Returns "old", "new" or "broken" for each process. Raises RuntimeError if one fails otherwise.
    """
    within = write.__module__.split(".")[0] == "steelnb"
    definition = f"from {write.__module__} import {write.__name__}" if within else inspect.getsource(write)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        while True:
            (path := Path(folder, "file")).write_bytes(b"old")
            program = PROGRAM.format(definition=definition, name=write.__name__, number=len(found) + 1)
            ended = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
            if ended.returncode not in (0, 9):
                raise RuntimeError(f"{write.__name__} failed: {ended.stderr.strip()}")
            found.append({b"old": "old", b"new" * 1000: "new"}.get(path.read_bytes(), "broken"))
            if ended.returncode == 0:
                return found
