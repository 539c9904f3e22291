"""Registered builders of the models of both components."""
