"""The catalogue and the interactions: from a user's own tables to the dataset every later stage reads."""
