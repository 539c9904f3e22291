"""The components. They know the models they are given and spaCy, but no torch and no Pillow."""
