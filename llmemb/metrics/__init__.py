"""Where targets rank, what is measured of it, and for whom: one way for training, evaluation and every baseline."""
