"""The MMIB model in pure torch: nothing here knows spaCy or Thinc.

Shapes are written with b posts in the batch, n tokens, m + 1 picture rows (the whole picture and m
objects), d the hidden size, k tags. Masks are bool, True at what is real. Equation numbers are those of
Cui et al. (2024), "Enhancing Multimodal Entity and Relation Extraction With Variational Information
Bottleneck", TASLP.
"""
