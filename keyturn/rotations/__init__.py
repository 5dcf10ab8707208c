"""Rotations: requests, decisions and outcomes."""
