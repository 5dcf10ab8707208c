"""The support desk: ask, watch, stop, approve, in a browser or by JSON. It holds no state but the database's."""
