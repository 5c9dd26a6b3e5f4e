//! Every SQL text of this crate, in the one form that both engines take.
//!
//! Texts that end inside a `WHERE` are finished by a table's filter from constant fragments.

/// Declares the texts and lists them, so that none can be forgotten where all are prepared.
macro_rules! texts {
    ($($name:ident = $sql:expr;)+) => {
        $(pub(crate) const $name: &str = $sql;)+
        /// Each text by its name.
        pub(crate) const ALL: &[(&str, &str)] = &[$((stringify!($name), $name)),+];
    };
}

texts! {
    PING = "SELECT 1";

    INSERT_ORGANIZATION = "INSERT INTO organizations (id, name, slug, plan, created_at) VALUES ($1, $2, $3, $4, $5)";
    ORGANIZATION = "SELECT id, name, slug, plan, created_at FROM organizations WHERE id = $1";
    INSERT_USER = "INSERT INTO users (id, org_id, email, role, first_name, last_name, created_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7)";

    INSERT_API_KEY = "INSERT INTO api_keys \
        (id, org_id, name, prefix, hash, scopes, created_at, last_used_at, expires_at, revoked_at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    REVOKE_API_KEY = "UPDATE api_keys SET revoked_at = $3 WHERE id = $1 AND org_id = $2 AND revoked_at IS NULL";
    // Uses are noted behind the requests and may come out of order; the time never goes back.
    TOUCH_API_KEY = "UPDATE api_keys SET last_used_at = $2 \
        WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)";
    API_KEY_BY_HASH = "SELECT id, org_id, name, prefix, hash, scopes, created_at, last_used_at, expires_at, revoked_at \
        FROM api_keys WHERE hash = $1";
    API_KEYS = "SELECT id, org_id, name, prefix, hash, scopes, created_at, last_used_at, expires_at, revoked_at \
        FROM api_keys WHERE org_id = $1 AND revoked_at IS NULL ORDER BY created_at, id";

    INSERT_SANDBOX = "INSERT INTO sandboxes \
        (id, org_id, state, stop_reason, failure, template_name, template_digest, layer, \
        cpu_millis, memory_bytes, pids, disk_bytes, forked_from, based_on, \
        created_at, ready_at, expires_at, stopped_at, startup_ms, address, metadata, env, server) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, \
        $23)";
    UPDATE_SANDBOX = "UPDATE sandboxes SET \
        state = $3, stop_reason = $4, failure = $5, template_name = $6, template_digest = $7, layer = $8, \
        cpu_millis = $9, memory_bytes = $10, pids = $11, disk_bytes = $12, forked_from = $13, based_on = $14, \
        created_at = $15, ready_at = $16, expires_at = $17, stopped_at = $18, startup_ms = $19, address = $20, \
        metadata = $21 \
        WHERE id = $1 AND org_id = $2 AND state = $22 AND server = $23 AND deleted_at IS NULL";
    SET_SANDBOX_ENV = "UPDATE sandboxes SET env = $2 WHERE id = $1 AND deleted_at IS NULL";
    DELETE_SANDBOX = "UPDATE sandboxes SET deleted_at = $2, layer = NULL, env = NULL, metadata = '{}', address = NULL \
        WHERE id = $1 AND deleted_at IS NULL";
    PRUNE_SANDBOXES = "DELETE FROM sandboxes WHERE deleted_at < $1";
    SANDBOX_ENV = "SELECT id, env FROM sandboxes WHERE id = $1 AND deleted_at IS NULL";
    SANDBOXES = "SELECT id, org_id, state, stop_reason, failure, template_name, template_digest, layer, \
        cpu_millis, memory_bytes, pids, disk_bytes, forked_from, based_on, \
        created_at, ready_at, expires_at, stopped_at, startup_ms, address, metadata, server \
        FROM sandboxes WHERE deleted_at IS NULL";

    INSERT_CHECKPOINT = "INSERT INTO checkpoints \
        (id, org_id, sandbox_id, parent_id, cloned_from, name, name_folded, description, kind, status, failure, \
        durability, template_name, template_digest, layer, scope, has_env, metadata, file_count, size_bytes, \
        checksum, pause_ms, copy_duration_ms, created_at, expires_at, durability_reason, durable_at, verified_at, \
        pinned, step_key, env, server) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, \
        $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32)";
    UPDATE_CHECKPOINT = "UPDATE checkpoints SET \
        sandbox_id = $3, parent_id = $4, cloned_from = $5, name = $6, name_folded = $7, description = $8, kind = $9, \
        status = $10, failure = $11, durability = $12, template_name = $13, template_digest = $14, layer = $15, \
        scope = $16, has_env = $17, metadata = $18, file_count = $19, size_bytes = $20, checksum = $21, \
        pause_ms = $22, copy_duration_ms = $23, created_at = $24, expires_at = $25, \
        durability_reason = $26, durable_at = $27, verified_at = $28, pinned = $29, step_key = $30 \
        WHERE id = $1 AND org_id = $2 AND server = $31 AND deleted_at IS NULL";
    SET_DURABILITY = "UPDATE checkpoints SET \
        durability = $3, durability_reason = $4, checksum = $5, durable_at = $6, verified_at = $7 \
        WHERE id = $1 AND durability = $2 AND deleted_at IS NULL";
    SET_RETENTION = "UPDATE checkpoints SET expires_at = $2, pinned = $3 \
        WHERE id = $1 AND deleted_at IS NULL AND pinned = $4 AND ($5 AND expires_at IS NULL OR expires_at = $6)";
    EXPIRE_CHECKPOINT = "UPDATE checkpoints SET deleted_at = $2, layer = NULL, env = NULL, metadata = '{}' \
        WHERE id = $1 AND deleted_at IS NULL AND expires_at <= $2 AND NOT pinned";
    DELETE_CHECKPOINT = "UPDATE checkpoints SET deleted_at = $2, layer = NULL, env = NULL, metadata = '{}' \
        WHERE id = $1 AND deleted_at IS NULL";
    PRUNE_CHECKPOINTS = "DELETE FROM checkpoints WHERE deleted_at < $1";
    DELETED_CHECKPOINTS = "SELECT org_id, id FROM checkpoints WHERE deleted_at > $1";
    CHECKPOINT_ENV = "SELECT id, env FROM checkpoints WHERE id = $1 AND deleted_at IS NULL";
    CHECKPOINTS = "SELECT id, org_id, sandbox_id, parent_id, cloned_from, name, description, kind, status, failure, \
        durability, template_name, template_digest, layer, scope, has_env, metadata, file_count, size_bytes, \
        checksum, pause_ms, copy_duration_ms, created_at, expires_at, durability_reason, durable_at, verified_at, \
        pinned, step_key, server FROM checkpoints WHERE deleted_at IS NULL";

    LAYERS_IN_USE = "SELECT layer FROM sandboxes WHERE layer IS NOT NULL \
        UNION SELECT layer FROM checkpoints WHERE layer IS NOT NULL";

    INSERT_EVENT = "INSERT INTO events (id, org_id, sandbox_id, checkpoint_id, kind, data, at) \
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    EVENTS = "SELECT id, org_id, sandbox_id, checkpoint_id, kind, data, at FROM events WHERE true";
    PRUNE_EVENTS = "DELETE FROM events WHERE at < $1";

    INSERT_IDEMPOTENCY = "INSERT INTO idempotency (org_id, key, fingerprint, made, at) VALUES ($1, $2, $3, $4, $5)";
    IDEMPOTENCY = "SELECT org_id, key, fingerprint, made, at FROM idempotency WHERE org_id = $1 AND key = $2";
    FORGET_IDEMPOTENCY = "DELETE FROM idempotency WHERE org_id = $1 AND key = $2";
    SEE_SERVER = "INSERT INTO servers (id, host, address, alive_until) VALUES ($1, $2, $3, $4) \
        ON CONFLICT (id) DO UPDATE SET host = excluded.host, address = excluded.address, \
        alive_until = excluded.alive_until";
    SERVER = "SELECT id, host, address, alive_until FROM servers WHERE id = $1";
    ADOPT_SANDBOXES = "UPDATE sandboxes SET server = $1 WHERE server = '00000000'";
    ADOPT_CHECKPOINTS = "UPDATE checkpoints SET server = $1 WHERE server = '00000000'";
    // Whoever comes second finds the first one's row, waits for its commit, and then meets the condition anew.
    TAKE_LEASE = "INSERT INTO leases (job, holder, until) VALUES ($1, $2, $4) \
        ON CONFLICT (job) DO UPDATE SET holder = excluded.holder, until = excluded.until \
        WHERE leases.holder = excluded.holder OR leases.until <= $3";
    END_LEASE = "DELETE FROM leases WHERE job = $1 AND holder = $2";
    PRUNE_LEASES = "DELETE FROM leases WHERE until < $1";

    PRUNE_IDEMPOTENCY = "DELETE FROM idempotency WHERE at < $1";
}
