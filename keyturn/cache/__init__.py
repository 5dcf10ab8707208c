"""Where answers of repeatable tasks are kept: the database by default, Redis for a fleet."""
