"""Weakly supervised object localisation after Zhang, Chang and Bui: one module for each stage of the road."""

__version__ = "0.1.0"
