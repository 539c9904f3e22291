"""Reader, batcher, optimizer and schedules for training."""
