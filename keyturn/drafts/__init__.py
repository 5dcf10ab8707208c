"""Drafts that are read while they are written: the text so far in one row, for whoever reads and from wherever."""
