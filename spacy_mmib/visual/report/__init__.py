"""One page about what a pipeline does on a corpus: scores, what the pictures contribute, errors, examples."""
