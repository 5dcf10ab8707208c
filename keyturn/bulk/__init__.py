"""Runs: a whole inventory judged, one item a row, so that nothing is asked twice however often a run is killed."""
