"""The systems that the paper's tables compare, one file each; `network.method` finds them by their names."""
