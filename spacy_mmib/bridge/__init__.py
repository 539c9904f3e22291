"""Between Thinc and torch: the shim, padding, and what passes between layers."""
