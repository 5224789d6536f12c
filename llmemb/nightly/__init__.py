"""Nightly: embed, train when it is due, compare with the live recommender, publish if not worse, clean up."""
