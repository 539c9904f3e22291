"""Persistent cache of features from frozen picture encoders: `store` keeps checked bytes under keys in an
SQLite file, `cache` is what the picture encoders use.
"""
