"""Photographs and boxes: archives, the layouts on disk, the annotation table, the network's input."""
