"""Evaluation: every model ranks every item for every user, and one set of functions turns the ranks into numbers."""
