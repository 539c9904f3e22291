"""Name and version, importable without any dependency."""

__title__ = "spacy-mmib"
__version__ = "0.1.0"
