"""What a Doc carries: the picture, objects, relations, predictions."""
