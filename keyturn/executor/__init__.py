"""Carrying a rotation out: what a job orders is done here, step by step, at the cloud that holds the key."""
