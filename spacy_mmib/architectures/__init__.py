"""Registered builders, thin: they name the settings and put layers together."""
