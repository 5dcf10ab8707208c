"""Freezes and maintenance windows: when no rotation may change anything."""
