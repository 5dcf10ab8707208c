"""Model providers on loopback that speak the real wire formats and can be told to fail."""
