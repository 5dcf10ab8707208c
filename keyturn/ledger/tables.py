"""The ledger's table. `keyturn/migrations/` creates it; a test compares both."""

from decimal import ROUND_HALF_EVEN, Decimal

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    Index,
    Integer,
    String,
    Table,
    TypeDecorator,
)

from keyturn.database import metadata
from keyturn.database_moments import Moment

_PICO = Decimal(10) ** 12


class Dollars(TypeDecorator[Decimal]):
    """US dollars as a whole number of picodollars: exact, and summed exactly, on a database without decimals too."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        """To the database; a token of the cheapest model costs 10,000 of them."""
        return None if value is None else int((value * _PICO).to_integral_value(ROUND_HALF_EVEN))

    def process_result_value(self, value: int | None, dialect: Dialect) -> Decimal | None:
        """From the database."""
        return None if value is None else (Decimal(value) / _PICO).normalize() + 0


call_records = Table(
    "call_records",
    metadata,
    Column("call_id", String(32), primary_key=True),  # drawn by the worker, so that writing it twice writes it once
    Column("called_at", Moment, nullable=False, index=True),
    Column("trace_id", String(64), nullable=False, index=True),
    Column("tenant_id", String(64), nullable=False),
    Column("user_id", String(256), nullable=False),
    Column("task", String(48), nullable=False),
    Column("provider", String(64), nullable=False),
    Column("model", String(128), nullable=False),
    Column("asked_model", String(128)),
    Column("prompt_version", String(64), nullable=False),
    Column("catalogue_version", String(70)),
    Column("attempt", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("failure", String(64)),
    Column("latency_ms", Float, nullable=False),
    Column("first_byte_ms", Float),
    Column("input_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("finish_reason", String(64)),
    Column("cost_picodollars", Dollars),
    Column("cache_hit", Boolean, nullable=False),
    Column("request_id", String(128)),
    Column("fingerprint", String(64)),
    Column("passed_over", JSON, nullable=False),
)
# What a user has spent today is looked up before a call, where a cap is set.
Index("ix_call_records_user", call_records.c.tenant_id, call_records.c.user_id, call_records.c.called_at)
