"""The parts of tests: cases, servers, stand-ins, and the recorders of what the repository stores."""
