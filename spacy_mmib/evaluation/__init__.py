"""Scorers, and what is measured of a trained pipeline."""
