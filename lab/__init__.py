"""What only developers need: the simulator, the embedded stack, the proof, the evaluation, the documents' generator."""
