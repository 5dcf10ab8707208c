"""The gate, compared with an oracle that shares no code with it: every case of a finite partition, and at random."""
