"""The command line: builds requests, starts and follows workflows. No database, no provider."""
