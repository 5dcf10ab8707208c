"""The support desk: ask, watch, stop, approve, in a browser or by JSON. Its only state is the database's."""
