"""The notebooks' network is loaded where it is, trained where it is not, and the line says which."""

from steelnb.network import pretrained
from steelnb.runs import series
from steelnb.training.recipes import SMOKE


def test_it_is_loaded():
    lines = []
    network = series.series_network(lines.append)
    assert network.model.depth == 3
    (line,) = lines
    assert line == "loaded, not trained here: unet_synthetic_steel.safetensors, 4,200 steps on synthetic steel"


def test_where_it_is_missing_one_is_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("STEELNB_HOME", str(tmp_path))
    monkeypatch.setattr(pretrained, "SERIES", tmp_path / "gone.safetensors")
    monkeypatch.setattr(series, "SMOKE", SMOKE.changed(epochs=1, epoch_samples=8))
    lines = []
    network = series.series_network(lines.append)
    assert network.metadata["steps"] == 2
    assert network.metadata["data"]["name"] == "synthetic steel"
    assert lines == ["no weights came with this copy: trained here for a minute"]
