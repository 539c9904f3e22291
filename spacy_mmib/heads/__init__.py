"""Picture-aware text vectors to annotations."""
