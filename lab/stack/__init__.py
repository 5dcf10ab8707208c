"""Everything on one machine: Temporal's dev server, the simulator, a database and a worker, for `dev` and `demo`."""
