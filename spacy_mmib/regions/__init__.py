"""Pictures to objects: a getter a file."""
