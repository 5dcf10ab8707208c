"""Deterministic orchestration: which step follows which, with each timeout and retry and its reason."""
