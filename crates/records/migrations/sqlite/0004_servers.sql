-- Several servers on one database: which server has what on its machine, what each says of itself, and who does which job.
-- '00000000' is nobody's: the first server that opens the database takes such rows.

ALTER TABLE sandboxes ADD COLUMN server TEXT NOT NULL DEFAULT '00000000';
ALTER TABLE checkpoints ADD COLUMN server TEXT NOT NULL DEFAULT '00000000';
CREATE INDEX sandboxes_by_server ON sandboxes (server, state, expires_at) WHERE deleted_at IS NULL;

CREATE TABLE servers (
    id          TEXT NOT NULL PRIMARY KEY,
    host        TEXT NOT NULL,
    address     TEXT NOT NULL,
    alive_until INTEGER NOT NULL
) STRICT;

CREATE TABLE leases (
    job    TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    until  INTEGER NOT NULL
) STRICT;
