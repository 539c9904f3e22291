"""What `spacy project run` calls: the demo, datasets, training, tables. Run from the repository's root."""
