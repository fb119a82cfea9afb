"""How good a network is: metrics, thresholds, scores with their conventions and intervals, the report."""
