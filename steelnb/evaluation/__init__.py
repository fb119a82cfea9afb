"""How good a network is.

Overlap of masks (`metrics`), from probabilities to a mask (`operating_point`), scores under every convention (`scores`)
with intervals (`bootstrap`), the report on a part of a data set (`predictions`, `report`), recorded results of long
runs (`recorded`).
"""

from steelnb.evaluation.operating_point import OperatingPoint
from steelnb.evaluation.recorded import recorded_result
from steelnb.evaluation.report import Report, choose_operating_point, evaluate
from steelnb.evaluation.scores import Key, Scores

__all__ = ["Key", "OperatingPoint", "Report", "Scores", "choose_operating_point", "evaluate", "recorded_result"]
