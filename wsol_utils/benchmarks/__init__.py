"""Time the parts: each beside the strongest other way of doing the same, and images a second."""
