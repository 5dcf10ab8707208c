"""The database's schema, step by step (Alembic)."""

# The newest revision in versions/. A worker compares it with the database's without importing Alembic.
HEAD = "0024"
# The tables of that revision. A process that starts looks whether it may use them, and need not import what they are.
TABLES = (
    "bulk_batches", "bulk_items", "bulk_runs", "call_records", "desk_ended_sessions", "desk_requests", "draft_states",
    "drafts", "exposures", "freezes", "job_audit", "labelled_cases", "notice_cursors", "notice_issues", "notice_sends",
    "notices", "outbox", "payload_key_use", "response_cache", "rotation_events", "rotation_jobs", "waivers",
)  # fmt: skip
