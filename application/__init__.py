"""What a caller may do: start, follow, answer and list, by Temporal's client. Page and command line use it alike."""
