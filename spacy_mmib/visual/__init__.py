"""Posts and scores as HTML."""
