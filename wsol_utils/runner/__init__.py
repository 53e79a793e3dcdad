"""What stands around the notebooks: manifest, verification, report, results/reference and their commands."""
