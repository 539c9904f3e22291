"""Pictures to rows of vectors: a family of networks a file."""
