-- Outcomes of recipes' steps are checkpoints with the step's key.
ALTER TABLE checkpoints ADD COLUMN step_key TEXT;
CREATE INDEX checkpoints_by_step ON checkpoints (step_key) WHERE deleted_at IS NULL AND step_key IS NOT NULL;
