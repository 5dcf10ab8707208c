"""What only developers need: the simulator, the embedded stack, the proof, the evaluation, the documents' generator."""

import gc

# Tests start these processes by the hundred, and each imports as much as a worker: see keyturn/console.py.
gc.set_threshold(50_000)
