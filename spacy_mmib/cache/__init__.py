"""Persistent cache of features from frozen picture encoders (`cache`), in a file of SQLite (`store`)."""
