-- A pinned checkpoint is left alone by retention.
ALTER TABLE checkpoints ADD COLUMN pinned BOOLEAN NOT NULL DEFAULT false;
DROP INDEX checkpoints_by_expiry;
CREATE INDEX checkpoints_by_expiry ON checkpoints (expires_at)
    WHERE deleted_at IS NULL AND expires_at IS NOT NULL AND NOT pinned;

-- Those that failed and those that are verified are looked for, too.
DROP INDEX checkpoints_by_durability;
CREATE INDEX checkpoints_by_durability ON checkpoints (durability, created_at) WHERE deleted_at IS NULL;
