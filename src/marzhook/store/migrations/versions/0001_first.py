"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "admins",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("is_sudo", sa.Boolean(), nullable=False),
        sa.Column("telegram_id", sa.BigInteger(), nullable=True),
        sa.Column("discord_webhook", sa.Text(), nullable=True),
        sa.Column("users_usage", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("password_reset_at", sa.Double(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_admins")),
    )
    op.create_index("uq_admins_username", "admins", ["username"], unique=True)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )
    op.create_index("uq_api_keys_key_hash", "api_keys", ["key_hash"], unique=True)
    op.create_table(
        "attempts",
        sa.Column("endpoint_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("event_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("duration", sa.Double(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.Column("schedule", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "schedule IN ('standard', 'rejected', 'outage', 'split')", name=op.f("ck_attempts_schedule")
        ),
        sa.CheckConstraint("(status IS NULL) <> (error IS NULL)", name=op.f("ck_attempts_status_or_error")),
        sa.CheckConstraint("number >= 1", name=op.f("ck_attempts_number")),
        sa.PrimaryKeyConstraint("endpoint_id", "event_id", "number", name=op.f("pk_attempts")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "endpoints",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=True),
        sa.Column("secret_mode", sa.Text(), nullable=False),
        sa.Column("learned_mode", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("actions", sa.Text(), nullable=True),
        sa.Column("signing_secret", sa.Text(), nullable=False),
        sa.Column("previous_signing_secret", sa.Text(), nullable=True),
        sa.Column("previous_expires_at", sa.Double(), nullable=True),
        sa.Column("ordered", sa.Boolean(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("rate_limit", sa.Double(), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("failing_since", sa.Double(), nullable=True),
        sa.Column("failing_stage", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("deleted_at", sa.Double(), nullable=True),
        sa.CheckConstraint("detail IN ('none', 'safe', 'full')", name=op.f("ck_endpoints_detail")),
        sa.CheckConstraint("format IN ('event', 'list', 'standard')", name=op.f("ck_endpoints_format")),
        sa.CheckConstraint("kind IN ('webhook', 'discord')", name=op.f("ck_endpoints_kind")),
        sa.CheckConstraint("learned_mode IN ('plain', 'hmac')", name=op.f("ck_endpoints_learned_mode")),
        sa.CheckConstraint("secret_mode IN ('plain', 'hmac', 'auto')", name=op.f("ck_endpoints_secret_mode")),
        sa.CheckConstraint("source IN ('environment', 'api')", name=op.f("ck_endpoints_source")),
        sa.CheckConstraint("concurrency BETWEEN 1 AND 1000", name=op.f("ck_endpoints_concurrency")),
        sa.CheckConstraint("rate_limit > 0", name=op.f("ck_endpoints_rate_limit")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_endpoints")),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("username", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False),
        sa.Column("enqueued_at", sa.Double(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("full_detail", sa.Text(), nullable=True),
        sa.CheckConstraint("length(action) BETWEEN 1 AND 64", name=op.f("ck_events_action")),
        sa.CheckConstraint("length(username) BETWEEN 1 AND 128", name=op.f("ck_events_username")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_username_id", "events", ["username", "id"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name=op.f("pk_idempotency_keys")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False)
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_meta")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "pending",
        sa.Column("endpoint_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("event_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=True),
        sa.CheckConstraint("tries >= 0 AND attempts >= tries", name=op.f("ck_pending_tries")),
        sa.ForeignKeyConstraint(["endpoint_id"], ["endpoints.id"], name=op.f("fk_pending_endpoint_id")),
        sa.PrimaryKeyConstraint("endpoint_id", "event_id", name=op.f("pk_pending")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "settled",
        sa.Column("endpoint_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("event_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("settled_at", sa.Double(), nullable=False),
        sa.CheckConstraint("state IN ('delivered', 'dead', 'cancelled')", name=op.f("ck_settled_state")),
        sa.CheckConstraint("tries >= 0 AND attempts >= tries", name=op.f("ck_settled_tries")),
        sa.ForeignKeyConstraint(["endpoint_id"], ["endpoints.id"], name=op.f("fk_settled_endpoint_id")),
        sa.PrimaryKeyConstraint("endpoint_id", "event_id", name=op.f("pk_settled")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_settled_undelivered",
        "settled",
        ["state", "endpoint_id", "event_id"],
        unique=False,
        sqlite_where=sa.text("state <> 'delivered'"),
        postgresql_where=sa.text("state <> 'delivered'"),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("username_key", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("proxies", sa.Text(), nullable=False),
        sa.Column("inbounds", sa.Text(), nullable=False),
        sa.Column("excluded_inbounds", sa.Text(), nullable=False),
        sa.Column("links", sa.Text(), nullable=False),
        sa.Column("subscription_url", sa.Text(), nullable=False),
        sa.Column("expire", sa.BigInteger(), nullable=True),
        sa.Column("data_limit", sa.BigInteger(), nullable=True),
        sa.Column("data_limit_reset_strategy", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("sub_updated_at", sa.Double(), nullable=True),
        sa.Column("sub_last_user_agent", sa.Text(), nullable=True),
        sa.Column("on_hold_expire_duration", sa.BigInteger(), nullable=True),
        sa.Column("on_hold_timeout", sa.Double(), nullable=True),
        sa.Column("auto_delete_in_days", sa.Integer(), nullable=True),
        sa.Column("next_plan", sa.Text(), nullable=True),
        sa.Column("admin_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("edited_at", sa.Double(), nullable=True),
        sa.Column("status_changed_at", sa.Double(), nullable=True),
        sa.Column("traffic_reset_at", sa.Double(), nullable=True),
        sa.Column("sub_revoked_at", sa.Double(), nullable=True),
        sa.Column("plan_changed_at", sa.Double(), nullable=True),
        sa.Column("announced_days_left", sa.Integer(), nullable=True),
        sa.Column("review_at", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "data_limit_reset_strategy IN ('no_reset', 'day', 'week', 'month', 'year')", name=op.f("ck_users_strategy")
        ),
        sa.CheckConstraint(
            "status IN ('active', 'disabled', 'limited', 'expired', 'on_hold')", name=op.f("ck_users_status")
        ),
        sa.CheckConstraint("data_limit > 0", name=op.f("ck_users_data_limit")),
        sa.CheckConstraint("expire > 0", name=op.f("ck_users_expire")),
        sa.ForeignKeyConstraint(["admin_id"], ["admins.id"], name=op.f("fk_users_admin_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
    )
    op.create_index("ix_users_admin_id", "users", ["admin_id"], unique=False)
    op.create_index(
        "ix_users_review_at",
        "users",
        ["review_at"],
        unique=False,
        sqlite_where=sa.text("review_at IS NOT NULL"),
        postgresql_where=sa.text("review_at IS NOT NULL"),
    )
    op.create_index("ix_users_status", "users", ["status"], unique=False)
    op.create_index("uq_users_username_key", "users", ["username_key"], unique=True)
    op.create_table(
        "counters",
        sa.Column("user_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("used_traffic", sa.BigInteger(), nullable=False),
        sa.Column("lifetime_used_traffic", sa.BigInteger(), nullable=False),
        sa.Column("online_at", sa.Double(), nullable=True),
        sa.Column("review_traffic", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("used_traffic >= 0 AND lifetime_used_traffic >= 0", name=op.f("ck_counters_traffic")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_counters_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_counters")),
    )
    op.create_table(
        "traffic",
        sa.Column("user_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_traffic_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "hour", name=op.f("pk_traffic")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ingested",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ingested")),
    )
    op.create_index("ix_ingested_fingerprint", "ingested", ["fingerprint"], unique=False)
    op.create_table(
        "rejected",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rejected")),
    )
