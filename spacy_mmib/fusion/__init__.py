"""Text and picture vectors to picture-aware text vectors: a published model a file."""
