"""The production Temporal server on this machine: several processes, a PostgreSQL over TCP, and TLS between them."""
