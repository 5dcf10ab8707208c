"""Rotation jobs: the only effect of the program, and the only code that writes to the database."""
