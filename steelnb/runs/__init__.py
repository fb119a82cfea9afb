"""A training that outlives its sessions.

One call starts or resumes it (`train`, `training_loop`), from checkpoints that a kill cannot spoil (`checkpoints`), if
the settings match (`identity`), one process at a time (`session`). `copies` keeps images of the same steel together,
`intervals` computes how often to save, `advice` how long to train and why a training found nothing. `series` is the
network that the notebooks share.
"""

from steelnb.runs.identity import TrainingError
from steelnb.runs.series import series_network
from steelnb.runs.train import seconds_a_step, train

__all__ = ["TrainingError", "seconds_a_step", "series_network", "train"]
