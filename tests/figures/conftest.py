"""Every test of a figure draws in the series' style."""

import matplotlib.pyplot as plt
import pytest

from steelnb.figures import plots


@pytest.fixture(autouse=True)
def drawing():
    """No window opens, no setting and no figure is left behind."""
    plt.switch_backend("agg")
    with plt.rc_context():
        plots.use_style()
        yield
    plt.close("all")
