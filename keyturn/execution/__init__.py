"""Executing a rotation job at one cloud account."""
