"""Maps that other programs made, evaluated as ours are."""
