-- Organisations, users, keys, sandboxes, checkpoints, events and idempotency keys.
-- Ids are bare UUIDs, times microseconds since 1970, JSON compact text.

CREATE TABLE organizations (
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    slug       TEXT    NOT NULL UNIQUE,
    plan       TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
    id         TEXT    NOT NULL PRIMARY KEY,
    org_id     TEXT    NOT NULL REFERENCES organizations (id),
    email      TEXT    NOT NULL,
    role       TEXT    NOT NULL,
    first_name TEXT,
    last_name  TEXT,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX users_by_org ON users (org_id);

CREATE TABLE api_keys (
    id           TEXT    NOT NULL PRIMARY KEY,
    org_id       TEXT    NOT NULL REFERENCES organizations (id),
    name         TEXT    NOT NULL,
    prefix       TEXT    NOT NULL,
    hash         BLOB    NOT NULL UNIQUE,
    scopes       TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    last_used_at INTEGER,
    expires_at   INTEGER,
    revoked_at   INTEGER
) STRICT;
CREATE INDEX api_keys_by_org ON api_keys (org_id, created_at, id) WHERE revoked_at IS NULL;

-- A deleted sandbox stays as a tombstone: deleted_at is set, layer and env are gone, metadata is empty.
CREATE TABLE sandboxes (
    id              TEXT    NOT NULL PRIMARY KEY,
    org_id          TEXT    NOT NULL REFERENCES organizations (id),
    state           TEXT    NOT NULL,
    stop_reason     TEXT,
    failure         TEXT,
    template_name   TEXT    NOT NULL,
    template_digest TEXT    NOT NULL,
    layer           TEXT,
    cpu_millis      INTEGER NOT NULL,
    memory_bytes    INTEGER NOT NULL,
    pids            INTEGER NOT NULL,
    disk_bytes      INTEGER NOT NULL,
    forked_from     TEXT,
    based_on        TEXT,
    created_at      INTEGER NOT NULL,
    ready_at        INTEGER,
    expires_at      INTEGER NOT NULL,
    stopped_at      INTEGER,
    startup_ms      INTEGER,
    address         TEXT,
    metadata        TEXT    NOT NULL,
    env             BLOB,
    deleted_at      INTEGER
) STRICT;
CREATE INDEX sandboxes_by_org ON sandboxes (org_id, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX sandboxes_by_state ON sandboxes (state, expires_at) WHERE deleted_at IS NULL;
CREATE INDEX sandboxes_by_expiry ON sandboxes (expires_at) WHERE deleted_at IS NULL;
CREATE INDEX sandboxes_by_stop ON sandboxes (state, stopped_at)
    WHERE deleted_at IS NULL AND layer IS NOT NULL AND stopped_at IS NOT NULL;
CREATE INDEX sandboxes_by_layer ON sandboxes (layer) WHERE layer IS NOT NULL;
CREATE INDEX sandboxes_deleted ON sandboxes (deleted_at) WHERE deleted_at IS NOT NULL;

-- No foreign key to the sandbox: a checkpoint outlives its sandbox, and that one's tombstone.
-- A deleted checkpoint stays as a tombstone, as a sandbox does.
CREATE TABLE checkpoints (
    id               TEXT    NOT NULL PRIMARY KEY,
    org_id           TEXT    NOT NULL REFERENCES organizations (id),
    sandbox_id       TEXT    NOT NULL,
    parent_id        TEXT,
    cloned_from      TEXT,
    name             TEXT    NOT NULL,
    name_folded      TEXT    NOT NULL,
    description      TEXT,
    kind             TEXT    NOT NULL,
    status           TEXT    NOT NULL,
    failure          TEXT,
    durability       TEXT    NOT NULL,
    durability_reason TEXT,
    durable_at       INTEGER,
    verified_at      INTEGER,
    template_name    TEXT    NOT NULL,
    template_digest  TEXT    NOT NULL,
    layer            TEXT,
    scope            TEXT    NOT NULL,
    has_env          INTEGER NOT NULL,
    metadata         TEXT    NOT NULL,
    file_count       INTEGER NOT NULL,
    size_bytes       INTEGER NOT NULL,
    checksum         TEXT    NOT NULL,
    pause_ms         REAL    NOT NULL,
    copy_duration_ms REAL    NOT NULL,
    created_at       INTEGER NOT NULL,
    expires_at       INTEGER,
    env              BLOB,
    deleted_at       INTEGER
) STRICT;
CREATE INDEX checkpoints_by_org ON checkpoints (org_id, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX checkpoints_by_sandbox ON checkpoints (sandbox_id, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX checkpoints_by_name ON checkpoints (name, org_id) WHERE deleted_at IS NULL;
CREATE INDEX checkpoints_by_expiry ON checkpoints (expires_at) WHERE deleted_at IS NULL AND expires_at IS NOT NULL;
CREATE INDEX checkpoints_processing ON checkpoints (created_at) WHERE deleted_at IS NULL AND status = 'processing';
CREATE INDEX checkpoints_by_durability ON checkpoints (durability, created_at) WHERE deleted_at IS NULL AND durability IN ('captured', 'durable');
CREATE INDEX checkpoints_by_layer ON checkpoints (layer) WHERE layer IS NOT NULL;
CREATE INDEX checkpoints_deleted ON checkpoints (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE events (
    id            TEXT    NOT NULL PRIMARY KEY,
    org_id        TEXT    NOT NULL REFERENCES organizations (id),
    sandbox_id    TEXT,
    checkpoint_id TEXT,
    kind          TEXT    NOT NULL,
    data          TEXT    NOT NULL,
    at            INTEGER NOT NULL
) STRICT;
CREATE INDEX events_by_org ON events (org_id, at, id);
CREATE INDEX events_by_sandbox ON events (sandbox_id, at, id) WHERE sandbox_id IS NOT NULL;
CREATE INDEX events_by_age ON events (at);

CREATE TABLE idempotency (
    org_id      TEXT    NOT NULL REFERENCES organizations (id),
    key         TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,
    made        TEXT    NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (org_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_age ON idempotency (at);
