"""The trained network that runs through the notebooks: loaded, or trained for a minute if it is missing."""

from collections.abc import Callable

from steelnb import runtime
from steelnb.data import sources
from steelnb.network import pretrained
from steelnb.network.weights import Trained, load_network
from steelnb.runs.train import train
from steelnb.training.recipes import SMOKE


def series_network(report: Callable[[str], None] = print) -> Trained:
    """A small U-Net that was trained on synthetic steel; `report` gets one line that says whether it was loaded."""
    if pretrained.SERIES.exists():
        network = load_network(pretrained.SERIES)
        report(f"loaded, not trained here: {pretrained.SERIES.name}, {network.metadata['steps']:,} steps on "
               f"{network.metadata['data']['name']}")
        return network
    run = runtime.new_run("series_network")
    train(sources.open_dataset("synthetic", images=48, seed=1, progress=False), run, SMOKE, report=lambda line: None)
    report("no weights came with this copy: trained here for a minute")
    return load_network(run)
