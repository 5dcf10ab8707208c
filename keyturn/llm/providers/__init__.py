"""One module a provider: from our prompt to its wire format, and from its answer to ours."""
