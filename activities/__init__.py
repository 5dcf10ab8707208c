"""A thin Temporal shell around the core: a few lines each, and one table of failures."""
