"""Labelled cases: what people decided about rotations, encrypted, and the replay of a candidate against them."""
