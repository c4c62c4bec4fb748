"""The tables. `migrations/` builds the same; a test holds the two against each other.

Times are Unix seconds in double precision: exact to the microsecond, comparable in both databases without time zones.
JSON is text, written by `json.dumps` and read back only where somebody looks inside.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    text,
)  # fmt: skip

from marzhook.store.columns import Id, Name, endpoint_on_sqlite, one_of
from marzhook.store.columns import metadata as metadata

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_with_rowid=False,
)
"""Facts about this database: `instance` (prefix of message ids), `token_key`, `vault`, `thresholds`, `moving`."""

events = Table(
    "events",
    metadata,
    Column("id", Id, primary_key=True),
    Column("action", Text, nullable=False),
    Column("username", Name, nullable=False),
    Column("enqueued_at", Double, nullable=False),
    # What follows the documented keys, an object in the order of the wire, without credentials; NULL: nothing.
    Column("detail", Text),
    # The same with credentials, where there are any and an endpoint was to get them when the event was published.
    Column("full_detail", Text),
    # To which trace it belongs (`trace_context.kept`); NULL: to none.
    Column("traceparent", Text),
    CheckConstraint("length(action) BETWEEN 1 AND 64", name="action"),
    CheckConstraint("length(username) BETWEEN 1 AND 128", name="username"),
    # A lane's next event is found here: "what else is owed of this user, after this one?"
    Index("ix_events_username_id", "username", "id"),
    # Ids are never used again, also when the newest events were deleted: receivers know events by them.
    sqlite_autoincrement=True,
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("secret", Text),
    Column("secret_mode", Text, nullable=False),
    Column("learned_mode", Text),
    Column("detail", Text, nullable=False),
    # The filter: lists in JSON, and an expression. NULL: any.
    Column("actions", Text),
    Column("admins", Text),
    Column("usernames", Text),
    Column("condition", Text),
    # Sealed: what a receiver's body has to have may be secret.
    Column("template", Text),
    Column("signing_secret", Text, nullable=False),
    Column("previous_signing_secret", Text),
    Column("previous_expires_at", Double),
    # v1, v1a or both; and the ed25519 keys of v1a, where that was ever asked for.
    Column("signatures", Text, nullable=False, server_default=text("'v1'")),
    Column("signing_key", Text),
    Column("previous_signing_key", Text),
    Column("ordered", Boolean, nullable=False),
    Column("concurrency", Integer, nullable=False),
    # Requests a second; NULL: no limit.
    Column("rate_limit", Double),
    # A JSON object that the kind understands; NULL: nothing.
    Column("options", Text),
    Column("enabled", Boolean, nullable=False),
    Column("disabled_reason", Text),
    # Since when nothing was accepted and its breaker opened; NULL: it is well. And how far people were told of it.
    Column("failing_since", Double),
    Column("failing_stage", Integer, nullable=False, server_default=text("0")),
    # While a breaker is open: when the next probe may go, and how many have failed; see `store/outages.py`.
    Column("probe_at", Double),
    Column("probes", Integer, nullable=False, server_default=text("0")),
    # When somebody last asked that one of its deliveries be tried at once.
    Column("hastened_at", Double),
    # When it was last resumed, or got another address: how it fares is judged by later tries. NULL: by all.
    Column("judged_from", Double),
    Column("source", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    # A deleted endpoint keeps its row: its deliveries and attempts are history, and history stays readable.
    Column("deleted_at", Double),
    CheckConstraint(one_of("format", "event", "list", "standard"), name="format"),
    CheckConstraint(one_of("secret_mode", "plain", "hmac", "auto"), name="secret_mode"),
    CheckConstraint(one_of("learned_mode", "plain", "hmac"), name="learned_mode"),
    CheckConstraint(one_of("detail", "none", "safe", "full"), name="detail"),
    CheckConstraint(one_of("source", "environment", "api"), name="source"),
    CheckConstraint("concurrency BETWEEN 1 AND 1000", name="concurrency"),
    CheckConstraint("rate_limit > 0", name="rate_limit"),
)

pending = Table(
    "pending",
    metadata,
    Column("endpoint_id", Id, primary_key=True),
    Column("event_id", Id, primary_key=True),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("due_at", Double),
    # Of the user (`event.shard_of`), where several workers share what is owed: on PostgreSQL. NULL on SQLite.
    Column("shard", SmallInteger),
    # When somebody asked for a try at once, which waits for no pause and no probe; NULL once it was made.
    Column("hastened_at", Double),
    CheckConstraint("tries >= 0 AND attempts >= tries", name="tries"),
    endpoint_on_sqlite(),
    # Of nearly none, so nobody who publishes or settles pays for it.
    Index(
        "ix_pending_hastened",
        "endpoint_id",
        "event_id",
        sqlite_where=text("hastened_at IS NOT NULL"),
        postgresql_where=text("hastened_at IS NOT NULL"),
    ),
    sqlite_with_rowid=False,
)
"""What is still owed, and nothing else: it stays as small as the backlog, however long the history grows.

No foreign key to events, here and below: deleting an event would have to search these tables for it, and their keys begin
with the endpoint."""

settled = Table(
    "settled",
    metadata,
    Column("endpoint_id", Id, primary_key=True),
    Column("event_id", Id, primary_key=True),
    Column("state", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("settled_at", Double, nullable=False),
    CheckConstraint(one_of("state", "delivered", "dead", "cancelled"), name="state"),
    CheckConstraint("tries >= 0 AND attempts >= tries", name="tries"),
    endpoint_on_sqlite(),
    # Few are anything but delivered, and those are what people look for.
    Index(
        "ix_settled_undelivered",
        "state", "endpoint_id", "event_id",
        sqlite_where=text("state <> 'delivered'"),
        postgresql_where=text("state <> 'delivered'"),
    ),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (event_id)",
)  # fmt: skip
"""Deliveries that have come to their end. A delivery is in `pending` or here, never in both.

On PostgreSQL this and `attempts` are partitioned: see `store/partitions.py`."""

attempts = Table(
    "attempts",
    metadata,
    Column("endpoint_id", Id, primary_key=True),
    Column("event_id", Id, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("duration", Double, nullable=False),
    Column("status", Integer),
    Column("error", Text),
    Column("message", Text, nullable=False),
    Column("response", Text, nullable=False),
    # What decided when it is tried again, after a failure.
    Column("schedule", Text),
    # What a new connection took, see `delivery.Attempt.timing`; NULL: not known.
    Column("timing", Text),
    # The head of a failure's answer.
    Column("head", Text),
    CheckConstraint("number >= 1", name="number"),
    CheckConstraint(one_of("schedule", "standard", "rejected", "outage", "split"), name="schedule"),
    CheckConstraint("(status IS NULL) <> (error IS NULL)", name="status_or_error"),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (event_id)",
)
"""Every try, append-only. No foreign keys: each would cost a look-up a row on the hottest insert of all."""

admins = Table(
    "admins",
    metadata,
    Column("id", Id, primary_key=True),
    Column("username", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("is_sudo", Boolean, nullable=False),
    Column("telegram_id", BigInteger),
    Column("discord_webhook", Text),
    Column("users_usage", BigInteger, nullable=False, server_default=text("0")),
    # Tokens issued before are void.
    Column("password_reset_at", Double),
    Column("created_at", Double, nullable=False),
    Index("uq_admins_username", "username", unique=True),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Text, nullable=False),
    Column("key_hash", LargeBinary, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
    Index("uq_api_keys_key_hash", "key_hash", unique=True),
)
"""`key_hash` is SHA-256 of the key: a key is 32 random bytes, so there is nothing to guess and no need to be slow."""

void_tokens = Table(
    "void_tokens",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    # When the token itself ends, and the row may go; NULL: never.
    Column("expires_at", Double),
    sqlite_with_rowid=False,
)
"""Admins' tokens that were signed out before their time, as SHA-256."""

users = Table(
    "users",
    metadata,
    Column("id", Id, primary_key=True),
    Column("username", Text, nullable=False),
    # The name in lower case: unique, so names differ by more than case.
    Column("username_key", Name, nullable=False),
    Column("status", Text, nullable=False),
    Column("proxies", Text, nullable=False),
    Column("inbounds", Text, nullable=False),
    Column("excluded_inbounds", Text, nullable=False),
    Column("links", Text, nullable=False),
    Column("subscription_url", Text, nullable=False),
    Column("expire", BigInteger),
    Column("data_limit", BigInteger),
    Column("data_limit_reset_strategy", Text, nullable=False),
    Column("note", Text),
    Column("sub_updated_at", Double),
    Column("sub_last_user_agent", Text),
    Column("on_hold_expire_duration", BigInteger),
    Column("on_hold_timeout", Double),
    Column("auto_delete_in_days", Integer),
    Column("next_plan", Text),
    Column("admin_id", Id, ForeignKey("admins.id")),
    Column("created_at", Double, nullable=False),
    Column("edited_at", Double),
    Column("status_changed_at", Double),
    Column("traffic_reset_at", Double),
    Column("sub_revoked_at", Double),
    # When the next plan took over.
    Column("plan_changed_at", Double),
    # The smallest days-left threshold that was announced for this expiry.
    Column("announced_days_left", Integer),
    # When time alone changes something next; NULL: never. What keeps the review's cost to those who cross something.
    Column("review_at", Double),
    CheckConstraint(one_of("status", "active", "disabled", "limited", "expired", "on_hold"), name="status"),
    CheckConstraint(one_of("data_limit_reset_strategy", "no_reset", "day", "week", "month", "year"), name="strategy"),
    CheckConstraint("data_limit > 0", name="data_limit"),
    CheckConstraint("expire > 0", name="expire"),
    Index("uq_users_username_key", "username_key", unique=True),
    Index("ix_users_review_at", "review_at", sqlite_where=text("review_at IS NOT NULL"),
          postgresql_where=text("review_at IS NOT NULL")),
    Index("ix_users_admin_id", "admin_id"),
    Index("ix_users_status", "status"),
)  # fmt: skip

counters = Table(
    "counters",
    metadata,
    Column("user_id", Id, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("used_traffic", BigInteger, nullable=False),
    Column("lifetime_used_traffic", BigInteger, nullable=False),
    Column("online_at", Double),
    # The used_traffic at which a report has to look what it changes; NULL: it changes nothing else.
    Column("review_traffic", BigInteger),
    CheckConstraint("used_traffic >= 0 AND lifetime_used_traffic >= 0", name="traffic"),
)
"""What every traffic report writes, one row a user. Apart from `users`, whose rows are twenty times as wide: a report of
10,000 users would write most of that table anew."""

traffic = Table(
    "traffic",
    metadata,
    Column("user_id", Id, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    # Unix seconds of the hour's start.
    Column("hour", BigInteger, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    # Who asked, and the key that they chose.
    Column("owner", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_hash", LargeBinary, nullable=False),
    Column("response", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Index("ix_idempotency_keys_created_at", "created_at"),
    sqlite_with_rowid=False,
)

ingested = Table(
    "ingested",
    metadata,
    Column("id", Id, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("seen_at", Double, nullable=False),
    Index("ix_ingested_fingerprint", "fingerprint"),
)
"""Panels' events of the last days, to know their retries by. Not unique: two events can look alike. Ids grow with time."""

rejected = Table(
    "rejected",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", Double, nullable=False),
    Column("source", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("reason", Text, nullable=False),
    # Without credentials, its head where it is long; and its length in characters.
    Column("body", Text, nullable=False),
    Column("length", Integer, nullable=False),
)
"""What panels sent and Marzhook could not take."""

sources = Table(
    "sources",
    metadata,
    Column("id", Id, primary_key=True),
    Column("kind", Text, nullable=False),
    # Sealed, as password and token are.
    Column("url", Text, nullable=False),
    Column("username", Text),
    Column("password", Text),
    Column("token", Text),
    Column("paused", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    # When the first snapshot was whole; NULL: it is not.
    Column("snapshot_at", Double),
    # When all users had been looked at for the last time.
    Column("passed_at", Double),
    # Since when it cannot be followed, and why, in words.
    Column("failing_since", Double),
    Column("error", Text),
    CheckConstraint(one_of("kind", "marzban"), name="kind"),
    CheckConstraint("(token IS NULL) <> (password IS NULL)", name="login"),
    CheckConstraint("(failing_since IS NULL) = (error IS NULL)", name="error"),
    sqlite_autoincrement=True,
)
"""Panels that are followed over their API."""

source_users = Table(
    "source_users",
    metadata,
    Column("source_id", Id, ForeignKey("sources.id", ondelete="CASCADE"), primary_key=True),
    Column("username", Name, primary_key=True),
    # As he was seen last, without credentials (`sources.seen`); NULL: he was deleted.
    Column("state", Text),
    # Actions that polling has told lately, and when: {action: Unix seconds}.
    Column("told", Text),
    # When the panel's webhook changed this last, 0: never. What was asked for before that is older.
    Column("touched_at", Double, nullable=False),
    sqlite_with_rowid=False,
)
"""What each user of a followed panel was like, as far as events have told of it."""

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("session", Integer),
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("rate", Double, nullable=False),
    Column("lag", Double, nullable=False),
    sqlite_with_rowid=False,
)
"""How each process that delivers fares, as it says (`store/workers.py`). For people: nothing is decided by it."""
