"""Representative questions with the answers that policy and facts support, asked of a real route."""
