"""The border between Thinc and torch: Docs and Thinc arrays on one side, padded tensors on the other."""
