"""Drafts that are read while they are written: the text so far in one row, for any number of readers anywhere."""
