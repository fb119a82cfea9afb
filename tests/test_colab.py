"""Two sessions on Colab, each a kernel of its own with a stand-in for google.colab: Drive, archive, stop button.

The stand-in has no `output.enable_custom_widget_manager`: Colab draws ipywidgets' own widgets without it, it is for
those of third parties, and a call to it would fail here.
"""

import os
import re
import shutil
import time
from queue import Empty

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

SECONDS = 120
MOUNT = """
from pathlib import Path

def mount(place):
    if not Path(place).is_dir():
        raise ValueError("mount failed")
"""
SESSION = """
from pathlib import Path
from steelnb import runs, runtime
from steelnb.data import sources
from steelnb.figures import widgets
from steelnb.training.recipes import SMOKE

runtime.DRIVE = Path({drive!r})
run = runtime.drive_folder() / "runs" / "long"
data = sources.open_dataset(runtime.DRIVE / "MyDrive" / "steel.zip", progress=False)
widgets.explore_sign_trick()
print(runtime.describe())
print("data on Drive:", data.folder.is_relative_to(runtime.DRIVE), "images:", len(data))
"""
TRAIN = """
tiny = SMOKE.changed(name="tiny", model=dict(width=2, depth=2), crop=(32, 64), batch=4, epochs=9000, epoch_samples=12,
                     scored=1)
history = runs.train(data, run, tiny, progress=False, checkpoint_seconds=0)
print(len(history), "epochs kept")
"""


class Kernel:
    """A notebook's kernel as Colab would start it; `home` is the machine's own disk, gone with the session."""

    def __init__(self, home, packages):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("KAGGLE_", "MPLBACKEND"))}
        path = os.pathsep.join([str(packages), *filter(None, [env.get("PYTHONPATH")])])
        env |= dict(COLAB_RELEASE_TAG="release-colab", PYTHONPATH=path, STEELNB_HOME=str(home), OMP_NUM_THREADS="1",
                    IPYTHONDIR=str(home / "ipython"), STEELNB_PROFILE="smoke")
        self.manager = KernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
        self.manager.start_kernel(env=env, extra_arguments=["--log-level=40"])
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=SECONDS)

    def run(self, code, stop_at=None):
        """(what the cell printed, its error); the stop button is pressed once when `stop_at` has been printed."""
        asked, printed, error = self.client.execute(code), "", ""
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") != asked:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                printed += content["text"]
            elif message["msg_type"] == "error":
                error += f"{content['ename']}: {content['evalue']}"
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return printed, error
            if stop_at and re.search(stop_at, printed):
                stop_at = self.manager.interrupt_kernel()
        raise AssertionError(f"the cell did not end; it printed {printed!r}")

    def vanish(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def colab(tmp_path, steel_folder):
    """Starts sessions: the Drive stays, each has a disk of its own."""
    (tmp_path / "packages" / "google" / "colab").mkdir(parents=True)  # `google` is a namespace, as it is in Colab
    (tmp_path / "packages" / "google" / "colab" / "__init__.py").touch()
    (tmp_path / "packages" / "google" / "colab" / "drive.py").write_text(MOUNT)
    (tmp_path / "drive" / "MyDrive").mkdir(parents=True)
    shutil.make_archive(str(tmp_path / "drive" / "MyDrive" / "steel"), "zip", steel_folder)
    kernels = []

    def begin():
        home = tmp_path / f"disk{len(kernels)}"
        home.mkdir()
        kernels.append(Kernel(home, tmp_path / "packages"))
        printed, error = kernels[-1].run(SESSION.format(drive=str(tmp_path / "drive")))
        assert not error
        assert printed.startswith("colab · cpu")
        assert "data on Drive: False images: 12" in printed
        assert len(list((home / "cache").glob("unpacked-steel-*/train.csv"))) == 1
        return kernels[-1]

    yield begin
    for kernel in kernels:
        kernel.vanish()


def test_a_run_on_drive_outlives_the_stop_button_and_the_session(colab, tmp_path):
    first = colab()
    printed, error = first.run(TRAIN, stop_at=r"epoch +2 of")
    assert not error  # the cell ends in good order, and what comes after the training is run
    stopped = re.search(r"stopped by hand \(Ctrl-C, or the notebook's stop button\): after step (\d+) of", printed)
    assert stopped, printed
    assert re.search(r"\d+ epochs kept\n$", printed)
    assert first.run("print(6 * 7)") == ("42\n", "")  # the kernel and its variables live on
    assert "KeyboardInterrupt" in first.run("import time\nprint('waits')\ntime.sleep(60)", stop_at="waits")[1]
    first.vanish()

    second = colab()
    assert (tmp_path / "drive" / "MyDrive" / "steelnb" / "runs" / "long" / "sessions.csv").is_file()
    printed, error = second.run(TRAIN, stop_at="goes on after step")
    assert not error
    assert re.match(rf"session 2 · .* · goes on after step {stopped[1]} of", printed)
