"""Written policy as data: the catalogue of lines, when a line applies, and what an answer must be grounded in."""
