"""Exposures: keys that were found where they should not be, by whom, and that their rotation starts at once."""
