"""What the outbox says to the databases, each statement in the words of both."""
# ruff: noqa: S608 - put together of our own words

from __future__ import annotations

from typing import Final

from marzhook.store import schema
from marzhook.store.driver import Statement
from marzhook.store.statements import Many, delete_many, insert_many, update_many

KEY: Final = ("endpoint_id", "event_id")

# -- publish

LAST_ID = Statement(
    "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)",
    # Also of those that were rolled back.
    "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM events_id_seq",
)
# PostgreSQL's writers do not wait for each other: each takes its ids from the sequence.
NEXT_IDS = Statement("", "SELECT nextval('events_id_seq') FROM generate_series(1, ?)")
_OWED = """
    SELECT id, detail = 'full', actions, admins, usernames, condition FROM endpoints WHERE deleted_at IS NULL"""
OWED = Statement(
    f"{_OWED} AND disabled_reason IS NOT ?",
    f"{_OWED} AND disabled_reason IS DISTINCT FROM ?",
)
_EVENT = ("id", "action", "username", "enqueued_at", "detail", "full_detail")
INSERT_EVENTS = insert_many(schema.events, *_EVENT)
INSERT_TRACED = insert_many(schema.events, *_EVENT, "traceparent")
INSERT_PENDING = insert_many(schema.pending, *KEY)
INSERT_SHARDED = insert_many(schema.pending, *KEY, "shard")

# -- window

# Here and below, on PostgreSQL: of the shards that the dispatcher owns.
_MINE = "coalesce(p.shard, 0) = ANY (CAST(:shards AS smallint[]))"
_READ = """SELECT p.event_id, e.action, e.username, e.enqueued_at, e.detail, e.full_detail, e.traceparent,
        p.tries, p.attempts, p.due_at, p.hastened_at"""
# PostgreSQL's planner knows of `pending` what it was like when it was last looked at, which for a backlog means nothing. So it
# is left no choice: `OFFSET 0` fixes the order of the loops, and within `read(by_key=True)` each goes through a key. (Asked
# plainly, it read and sorted all that was owed for every window, and went through it for every batch that was settled.)
_ITS_EVENT = """
    CROSS JOIN LATERAL (
        SELECT action, username, enqueued_at, detail, full_detail, traceparent FROM events
        WHERE id = p.event_id OFFSET 0) e"""
WINDOW = Statement(
    f"""
    {_READ}
    FROM pending p JOIN events e ON e.id = p.event_id
    WHERE p.endpoint_id = :endpoint AND p.event_id > :after
    ORDER BY p.event_id LIMIT :limit""",
    f"""
    {_READ}
    FROM (
        SELECT * FROM pending p WHERE p.endpoint_id = :endpoint AND p.event_id > :after AND {_MINE}
        ORDER BY p.event_id LIMIT :limit) p{_ITS_EVENT}
    ORDER BY p.event_id""",
)

# CROSS JOIN fixes the order of the loops, here and below: from each id straight to its row. Left to itself, SQLite walks
# through all that is owed to the endpoint and looks each row up among the ids. The ids come sorted, and so does the answer.
LOAD = Statement(
    f"""
    {_READ}
    FROM json_each(:ids) j
    CROSS JOIN pending p ON p.endpoint_id = :endpoint AND p.event_id = j.value
    CROSS JOIN events e ON e.id = p.event_id""",
    f"""
    {_READ}
    FROM unnest(CAST(:ids AS bigint[])) AS given (id)
    CROSS JOIN LATERAL (
        SELECT * FROM pending p WHERE p.endpoint_id = :endpoint AND p.event_id = given.id AND {_MINE} OFFSET 0) p{_ITS_EVENT}
    ORDER BY p.event_id""",
)

# What somebody wants tried now, behind the first window: an index knows of that alone.
HASTENED = Statement(
    """
    SELECT p.event_id, e.username
    FROM pending p INDEXED BY ix_pending_hastened CROSS JOIN events e ON e.id = p.event_id
    WHERE p.endpoint_id = :endpoint AND p.event_id > :after AND p.hastened_at IS NOT NULL
    ORDER BY p.event_id LIMIT :limit""",
    f"""
    SELECT p.event_id, e.username
    FROM (
        SELECT * FROM pending p
        WHERE p.endpoint_id = :endpoint AND p.event_id > :after AND p.hastened_at IS NOT NULL AND {_MINE}
        ORDER BY p.event_id LIMIT :limit) p{_ITS_EVENT}
    ORDER BY p.event_id""",
)

# For each username the next events owed to the endpoint behind the given one. CROSS JOIN fixes the order of the loops: names
# first, and from each name straight into the index on (username, id).
FOLLOWING = Statement(
    f"""
    {_READ}
    FROM json_each(:lanes) lane
    CROSS JOIN pending p ON p.endpoint_id = :endpoint AND p.event_id IN (
        SELECT q.event_id FROM events f INDEXED BY ix_events_username_id
        CROSS JOIN pending q ON q.endpoint_id = :endpoint AND q.event_id = f.id
        WHERE f.username = lane.value ->> 0 AND f.id > lane.value ->> 1
        ORDER BY f.id LIMIT :limit)
    CROSS JOIN events e ON e.id = p.event_id
    ORDER BY p.event_id""",
    """
    SELECT n.event_id, n.action, n.username, n.enqueued_at, n.detail, n.full_detail, n.traceparent,
        n.tries, n.attempts, n.due_at, n.hastened_at
    FROM json_array_elements(CAST(:lanes AS json)) AS lane
    CROSS JOIN LATERAL (
        SELECT q.*, f.action, f.username, f.enqueued_at, f.detail, f.full_detail, f.traceparent
        FROM events f
        CROSS JOIN LATERAL (SELECT * FROM pending WHERE endpoint_id = :endpoint AND event_id = f.id OFFSET 0) q
        WHERE f.username = lane ->> 0 AND f.id > CAST(lane ->> 1 AS bigint)
        ORDER BY f.id LIMIT :limit) n
    ORDER BY n.event_id""",
)

# Which endpoints have something behind the event that their window has reached: one probe of the key for each. Of an EXISTS
# PostgreSQL may make a join, for which it reads all that is pending where it takes that for nothing.
BEHIND = Statement(
    """
    SELECT CAST(j.key AS INTEGER) FROM json_each(:cursors) j
    WHERE EXISTS (SELECT 1 FROM pending p WHERE p.endpoint_id = CAST(j.key AS INTEGER) AND p.event_id > j.value)""",
    f"""
    SELECT CAST(j.key AS bigint) FROM json_each_text(CAST(:cursors AS json)) AS j (key, value)
    CROSS JOIN LATERAL (
        SELECT 1 FROM pending p
        WHERE p.endpoint_id = CAST(j.key AS bigint) AND p.event_id > CAST(j.value AS bigint) AND {_MINE}
        LIMIT 1) found""",
)

# -- settle

DELETE_SETTLED = Statement(
    """
    DELETE FROM pending
    WHERE endpoint_id = :endpoint AND event_id IN (SELECT value FROM json_each(:ids))
    RETURNING event_id""",
    # Between the first and the last of them, whatever the planner makes of the list.
    """
    DELETE FROM pending
    WHERE endpoint_id = :endpoint AND event_id = ANY (CAST(:ids AS bigint[])) AND event_id BETWEEN :first AND :last
    RETURNING event_id""",
)
INSERT_SETTLED = insert_many(schema.settled, *KEY, "state", "tries", "attempts", "settled_at")
# What is settled twice (a commit whose answer was lost) leaves one attempt.
INSERT_ATTEMPTS = insert_many(
    schema.attempts, *KEY, "number", "at", "duration", "status", "error", "message", "response", "schedule",
    "timing", "head",
    conflict="ON CONFLICT DO NOTHING",
)  # fmt: skip
# What somebody hastened since it was read for this try is still to be tried at once: `hastened_at` is then another one.
UPDATE_FAILED = Many(
    """
    UPDATE pending SET tries = ?, attempts = ?, due_at = CASE WHEN nullif(hastened_at, ?) IS NULL THEN ? ELSE due_at END,
        hastened_at = nullif(hastened_at, ?)
    WHERE endpoint_id = ? AND event_id = ?""",
    """
    UPDATE pending AS t SET tries = given.tries, attempts = given.attempts,
        due_at = CASE WHEN nullif(t.hastened_at, given.read) IS NULL THEN given.due_at ELSE t.due_at END,
        hastened_at = nullif(t.hastened_at, given.made)
    FROM unnest(
        CAST(? AS integer[]), CAST(? AS integer[]), CAST(? AS double precision[]), CAST(? AS double precision[]),
        CAST(? AS double precision[]), CAST(? AS bigint[]), CAST(? AS bigint[]))
        AS given (tries, attempts, read, due_at, made, endpoint_id, event_id)
    WHERE t.endpoint_id = given.endpoint_id AND t.event_id = given.event_id""",
)
# The answer of a delivery that was cancelled while it was on its way: the attempt counts, the state stays.
COUNT_LATE = Many(
    "UPDATE settled SET attempts = max(attempts, ?) WHERE endpoint_id = ? AND event_id = ?",
    "UPDATE settled AS t SET attempts = greatest(t.attempts, number)"
    " FROM unnest(CAST(? AS integer[]), CAST(? AS bigint[]), CAST(? AS bigint[])) AS given (number, endpoint_id, event_id)"
    " WHERE t.endpoint_id = given.endpoint_id AND t.event_id = given.event_id",
    event_id=2,
)

# -- replay and cancel

HASTEN = update_many(schema.pending, ("due_at", "hastened_at"), KEY)
REMOVE = {
    schema.pending: delete_many(schema.pending, KEY),
    schema.settled: delete_many(schema.settled, KEY, event_id=1),
}
# One statement on PostgreSQL, where some of them could be settled between two.
CANCEL_ALL = (
    Statement(
        """
    INSERT INTO settled (endpoint_id, event_id, state, tries, attempts, settled_at)
    SELECT endpoint_id, event_id, 'cancelled', tries, attempts, :now FROM pending WHERE endpoint_id = :endpoint""",
        """
    WITH gone AS (DELETE FROM pending WHERE endpoint_id = :endpoint RETURNING *)
    INSERT INTO settled (endpoint_id, event_id, state, tries, attempts, settled_at)
    SELECT endpoint_id, event_id, 'cancelled', tries, attempts, :now FROM gone""",
    ),
    Statement("DELETE FROM pending WHERE endpoint_id = :endpoint"),
)
