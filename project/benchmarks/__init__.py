"""Measurements whose figures the README gives."""
