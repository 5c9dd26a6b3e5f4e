-- Organisations, users, keys, sandboxes, checkpoints, events and idempotency keys.
-- Ids are bare UUIDs (compared by bytes, so that ties sort as in SQLite), times microseconds since 1970, JSON compact text.

CREATE TABLE organizations (
    id         TEXT    COLLATE "C" NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    slug       TEXT    NOT NULL UNIQUE,
    plan       TEXT    NOT NULL,
    created_at BIGINT  NOT NULL
);

CREATE TABLE users (
    id         TEXT    COLLATE "C" NOT NULL PRIMARY KEY,
    org_id     TEXT    NOT NULL REFERENCES organizations (id),
    email      TEXT    NOT NULL,
    role       TEXT    NOT NULL,
    first_name TEXT,
    last_name  TEXT,
    created_at BIGINT  NOT NULL
);
CREATE INDEX users_by_org ON users (org_id);

CREATE TABLE api_keys (
    id           TEXT    COLLATE "C" NOT NULL PRIMARY KEY,
    org_id       TEXT    NOT NULL REFERENCES organizations (id),
    name         TEXT    NOT NULL,
    prefix       TEXT    NOT NULL,
    hash         BYTEA   NOT NULL UNIQUE,
    scopes       TEXT    NOT NULL,
    created_at   BIGINT  NOT NULL,
    last_used_at BIGINT,
    expires_at   BIGINT,
    revoked_at   BIGINT
);
CREATE INDEX api_keys_by_org ON api_keys (org_id, created_at, id) WHERE revoked_at IS NULL;

-- A deleted sandbox stays as a tombstone: deleted_at is set, layer and env are gone, metadata is empty.
CREATE TABLE sandboxes (
    id              TEXT    COLLATE "C" NOT NULL PRIMARY KEY,
    org_id          TEXT    NOT NULL REFERENCES organizations (id),
    state           TEXT    NOT NULL,
    stop_reason     TEXT,
    failure         TEXT,
    template_name   TEXT    NOT NULL,
    template_digest TEXT    NOT NULL,
    layer           TEXT,
    cpu_millis      BIGINT  NOT NULL,
    memory_bytes    BIGINT  NOT NULL,
    pids            BIGINT  NOT NULL,
    disk_bytes      BIGINT  NOT NULL,
    forked_from     TEXT,
    based_on        TEXT,
    created_at      BIGINT  NOT NULL,
    ready_at        BIGINT,
    expires_at      BIGINT  NOT NULL,
    stopped_at      BIGINT,
    startup_ms      BIGINT,
    address         TEXT,
    metadata        TEXT    NOT NULL,
    env             BYTEA,
    deleted_at      BIGINT
);
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
    id               TEXT    COLLATE "C" NOT NULL PRIMARY KEY,
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
    durable_at       BIGINT,
    verified_at      BIGINT,
    template_name    TEXT    NOT NULL,
    template_digest  TEXT    NOT NULL,
    layer            TEXT,
    scope            TEXT    NOT NULL,
    has_env          BOOLEAN NOT NULL,
    metadata         TEXT    NOT NULL,
    file_count       BIGINT  NOT NULL,
    size_bytes       BIGINT  NOT NULL,
    checksum         TEXT    NOT NULL,
    pause_ms         DOUBLE PRECISION NOT NULL,
    copy_duration_ms DOUBLE PRECISION NOT NULL,
    created_at       BIGINT  NOT NULL,
    expires_at       BIGINT,
    env              BYTEA,
    deleted_at       BIGINT
);
CREATE INDEX checkpoints_by_org ON checkpoints (org_id, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX checkpoints_by_sandbox ON checkpoints (sandbox_id, created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX checkpoints_by_name ON checkpoints (name, org_id) WHERE deleted_at IS NULL;
CREATE INDEX checkpoints_by_expiry ON checkpoints (expires_at) WHERE deleted_at IS NULL AND expires_at IS NOT NULL;
CREATE INDEX checkpoints_processing ON checkpoints (created_at) WHERE deleted_at IS NULL AND status = 'processing';
CREATE INDEX checkpoints_by_durability ON checkpoints (durability, created_at) WHERE deleted_at IS NULL AND durability IN ('captured', 'durable');
CREATE INDEX checkpoints_by_layer ON checkpoints (layer) WHERE layer IS NOT NULL;
CREATE INDEX checkpoints_deleted ON checkpoints (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE events (
    id            TEXT    COLLATE "C" NOT NULL PRIMARY KEY,
    org_id        TEXT    NOT NULL REFERENCES organizations (id),
    sandbox_id    TEXT,
    checkpoint_id TEXT,
    kind          TEXT    NOT NULL,
    data          TEXT    NOT NULL,
    at            BIGINT  NOT NULL
);
CREATE INDEX events_by_org ON events (org_id, at, id);
CREATE INDEX events_by_sandbox ON events (sandbox_id, at, id) WHERE sandbox_id IS NOT NULL;
CREATE INDEX events_by_age ON events (at);

CREATE TABLE idempotency (
    org_id      TEXT    NOT NULL REFERENCES organizations (id),
    key         TEXT    NOT NULL,
    fingerprint TEXT    NOT NULL,
    made        TEXT    NOT NULL,
    at          BIGINT  NOT NULL,
    PRIMARY KEY (org_id, key)
);
CREATE INDEX idempotency_by_age ON idempotency (at);
