"""Model providers on loopback that speak the real wire formats and can be made to fail."""
