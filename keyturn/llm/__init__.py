"""The model boundary: the only code that talks to a model provider."""
