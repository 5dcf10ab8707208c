"""A model provider on loopback that speaks the real wire format and can be told to fail."""
