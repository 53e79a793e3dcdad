"""From boxes to figures: the protocols, the metrics, their statistics, and the readings of the paper."""
