"""Text encoders of our own, those that look at pictures among them."""
