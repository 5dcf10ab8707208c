"""Representative questions with the answers that policy and facts bear out, asked of a real route."""
