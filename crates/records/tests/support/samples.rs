//! Records to try things on: full ones with every field set, bare ones with none that may be missing.

use forkpoint_domain::{
    checkpoint::{Checkpoint, CheckpointKind, CheckpointStatus, Durability},
    event::{Event, EventKind},
    ids::{ApiKeyId, CheckpointId, EventId, LayerId, OrgId, SandboxId, UserId},
    limits::Limits,
    organization::{ApiKey, Organization, User},
    sandbox::{Sandbox, SandboxState, StopReason},
    scope::ScopeSpec,
    server::ServerId,
    template::{TemplateName, TemplateRef},
};
use forkpoint_engine::ports::{
    records::{Change, IdempotencyRecord, Records},
    sealer::Sealed,
};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A point of time, `seconds` after a fixed one.
pub(crate) fn at(seconds: i64) -> Timestamp {
    let start: Timestamp = "2026-03-01T12:00:00.123456Z".parse().unwrap();
    start + SignedDuration::from_secs(seconds)
}

pub(crate) fn organization(slug: &str) -> Organization {
    Organization {
        id: OrgId::from_uuid(Uuid::now_v7()),
        name: "Ünïcode & Co".into(),
        slug: slug.into(),
        plan: "free".into(),
        created_at: at(0),
    }
}

/// Records a new organisation and gives its id.
pub(crate) async fn new_org(records: &dyn Records) -> OrgId {
    let organization = organization(&Uuid::now_v7().to_string());
    let id = organization.id;
    records.commit(vec![Change::InsertOrganization(organization)]).await.unwrap();
    id
}

pub(crate) fn user(org_id: OrgId) -> User {
    User {
        id: UserId::from_uuid(Uuid::now_v7()),
        org_id,
        email: "dev@example.com".into(),
        role: "owner".into(),
        first_name: Some("Ada".into()),
        last_name: None,
        created_at: at(0),
    }
}

pub(crate) fn api_key(org_id: OrgId, created_at: Timestamp) -> ApiKey {
    let id = Uuid::now_v7();
    let mut hash = [0; 32];
    hash[..16].copy_from_slice(id.as_bytes());
    ApiKey {
        id: ApiKeyId::from_uuid(id),
        org_id,
        name: "ci".into(),
        prefix: "sk-sandbox-abcd".into(),
        hash,
        scopes: vec!["read".into(), "write".into()],
        created_at,
        last_used_at: None,
        expires_at: Some(at(1000)),
        revoked_at: None,
    }
}

pub(crate) fn template() -> TemplateRef {
    TemplateRef { name: TemplateName::parse("python3.12").unwrap(), digest: "ab".repeat(32) }
}

/// The server that everything is on.
pub(crate) fn server() -> ServerId {
    "0badcafe".parse().unwrap()
}

pub(crate) fn layer() -> LayerId {
    LayerId::from_uuid(Uuid::now_v7())
}

/// A sandbox that was just asked for.
pub(crate) fn bare_sandbox(org_id: OrgId, created_at: Timestamp) -> Sandbox {
    Sandbox {
        id: SandboxId::from_uuid(Uuid::now_v7()),
        org_id,
        server: server(),
        state: SandboxState::Creating,
        stop_reason: None,
        failure: None,
        template: template(),
        layer: None,
        limits: Limits::default(),
        forked_from: None,
        based_on: None,
        created_at,
        ready_at: None,
        expires_at: created_at + SignedDuration::from_hours(1),
        stopped_at: None,
        startup_ms: None,
        address: None,
        metadata: BTreeMap::new(),
    }
}

/// A sandbox with every field set.
pub(crate) fn full_sandbox(org_id: OrgId, created_at: Timestamp) -> Sandbox {
    Sandbox {
        state: SandboxState::Stopped,
        stop_reason: Some(StopReason::OutOfMemory),
        failure: Some("first process died: \"killed\"".into()),
        layer: Some(layer()),
        limits: Limits { cpu_millis: 256_000, memory_bytes: 4 << 40, pids: u32::MAX, disk_bytes: i64::MAX as u64 },
        forked_from: Some(CheckpointId::from_uuid(Uuid::now_v7())),
        based_on: Some(CheckpointId::from_uuid(Uuid::now_v7())),
        ready_at: Some(created_at + SignedDuration::from_micros(1)),
        stopped_at: Some(created_at + SignedDuration::from_secs(60)),
        startup_ms: Some(12),
        address: Some("100.96.0.7".into()),
        metadata: BTreeMap::from([("equipe".into(), "été \"%_\\ \u{0}".into()), (String::new(), String::new())]),
        ..bare_sandbox(org_id, created_at)
    }
}

/// A running sandbox with a layer.
pub(crate) fn running_sandbox(org_id: OrgId, created_at: Timestamp) -> Sandbox {
    Sandbox { state: SandboxState::Running, layer: Some(layer()), ..bare_sandbox(org_id, created_at) }
}

/// A checkpoint that is being made.
pub(crate) fn bare_checkpoint(org_id: OrgId, name: &str, created_at: Timestamp) -> Checkpoint {
    Checkpoint {
        id: CheckpointId::from_uuid(Uuid::now_v7()),
        org_id,
        server: server(),
        sandbox_id: SandboxId::from_uuid(Uuid::now_v7()),
        parent_id: None,
        cloned_from: None,
        name: name.into(),
        description: None,
        kind: CheckpointKind::Files,
        status: CheckpointStatus::Processing,
        failure: None,
        durability: Durability::Captured,
        durability_reason: None,
        durable_at: None,
        verified_at: None,
        template: template(),
        layer: layer(),
        scope: ScopeSpec::default(),
        has_env: false,
        metadata: serde_json::Map::new(),
        file_count: 0,
        size_bytes: 0,
        checksum: String::new(),
        pause_ms: 0.0,
        copy_duration_ms: 0.0,
        created_at,
        expires_at: None,
        pinned: false,
        step_key: None,
    }
}

/// A checkpoint with every field set.
pub(crate) fn full_checkpoint(org_id: OrgId, name: &str, created_at: Timestamp) -> Checkpoint {
    let serde_json::Value::Object(metadata) =
        serde_json::json!({"accuracy": 0.1, "n": 18446744073709551615_u64, "nested": {"ä": [null, true, "\u{0}"]}})
    else {
        unreachable!("the literal above is an object")
    };
    Checkpoint {
        parent_id: Some(CheckpointId::from_uuid(Uuid::now_v7())),
        cloned_from: Some(CheckpointId::from_uuid(Uuid::now_v7())),
        description: Some("after the second run".into()),
        kind: CheckpointKind::Full,
        status: CheckpointStatus::Failed,
        failure: Some("the layer is too large".into()),
        durability: Durability::Verified,
        durability_reason: Some("was full".into()),
        durable_at: Some(at(1)),
        verified_at: Some(at(2)),
        scope: ScopeSpec {
            include_paths: vec!["/workspace".into(), "/gone".into()],
            exclude_paths: vec!["/workspace/*.log".into()],
            absent_paths: vec!["/gone".into()],
        },
        has_env: true,
        metadata,
        file_count: i64::MAX as u64,
        size_bytes: 10 << 30,
        checksum: "b3:00ff".into(),
        pause_ms: 2.8125,
        copy_duration_ms: 0.1,
        expires_at: Some(at(90 * 24 * 3600)),
        pinned: true,
        step_key: Some("5a".repeat(16)),
        ..bare_checkpoint(org_id, name, created_at)
    }
}

pub(crate) fn event(org_id: OrgId, sandbox_id: Option<SandboxId>, when: Timestamp) -> Event {
    Event {
        id: EventId::from_uuid(Uuid::now_v7()),
        org_id,
        sandbox_id,
        checkpoint_id: Some(CheckpointId::from_uuid(Uuid::now_v7())),
        kind: EventKind::CheckpointCloned,
        data: serde_json::json!({"name": "été", "count": 3}),
        at: when,
    }
}

pub(crate) fn idempotency(org: OrgId, key: &str, when: Timestamp) -> IdempotencyRecord {
    IdempotencyRecord {
        org,
        key: key.into(),
        fingerprint: "POST /api/v1/sandbox b3:1234".into(),
        made: vec!["sb-1".into(), "sb-2".into()],
        at: when,
    }
}

pub(crate) fn sealed(text: &str) -> Sealed {
    Sealed(text.as_bytes().to_vec())
}

pub(crate) fn insert(sandbox: &Sandbox) -> Change {
    Change::InsertSandbox { sandbox: Box::new(sandbox.clone()), env: sealed("env") }
}

pub(crate) fn insert_checkpoint(checkpoint: &Checkpoint) -> Change {
    Change::InsertCheckpoint { checkpoint: Box::new(checkpoint.clone()), env: None }
}
