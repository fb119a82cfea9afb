"""A training that outlives its sessions: one call begins or resumes it, from checkpoints that a kill cannot spoil."""

from steelnb.runs.identity import TrainingError
from steelnb.runs.train import seconds_a_step, train

__all__ = ["TrainingError", "seconds_a_step", "train"]
