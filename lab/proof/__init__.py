"""The proof: rotations under thousands of faults, judged at the end; and controls that it must catch."""
