"""The response cache for repeatable tasks: in the database by default, in Redis for a fleet."""
