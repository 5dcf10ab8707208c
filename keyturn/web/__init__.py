"""What our HTTP servers share: connections, limits, sessions and refusals, of desk, jobs API, codec and monitoring."""
