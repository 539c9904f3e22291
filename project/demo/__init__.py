"""The synthetic demo: posts, drawn pictures, a picture encoder for such drawings, and the tables."""
