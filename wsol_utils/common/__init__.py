"""What every other folder may use: files that are whole, checks, progress bars, and who imports whom."""
