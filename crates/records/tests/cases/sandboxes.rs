//! Sandboxes: reading back, compare-and-set, deletion, lists.

use crate::support::samples::{
    at, bare_sandbox, event, full_sandbox, idempotency, insert, layer, new_org, running_sandbox, sealed, server,
};
use forkpoint_domain::{
    ids::{OrgId, SandboxId},
    sandbox::{Sandbox, SandboxState, StopReason},
    server::ServerId,
};
use forkpoint_engine::ports::records::{Change, Records, RecordsError, SandboxFilter};
use uuid::Uuid;

fn update(sandbox: &Sandbox, from: SandboxState) -> Change {
    Change::UpdateSandbox { sandbox: Box::new(sandbox.clone()), from }
}

async fn ids(records: &dyn Records, filter: SandboxFilter) -> Vec<SandboxId> {
    records.sandboxes(filter).await.unwrap().into_iter().map(|sandbox| sandbox.id).collect()
}

pub(crate) async fn sandboxes_read_back_with_every_field(records: &dyn Records) {
    let org = new_org(records).await;
    for sandbox in [full_sandbox(org, at(0)), bare_sandbox(org, at(1))] {
        records.commit(vec![insert(&sandbox)]).await.unwrap();
        assert_eq!(records.sandbox(sandbox.id).await.unwrap().as_ref(), Some(&sandbox));
        assert!(records.sandboxes(SandboxFilter::default()).await.unwrap().contains(&sandbox));
        assert!(matches!(records.commit(vec![insert(&sandbox)]).await, Err(RecordsError::Conflict(_))));
    }
    assert_eq!(records.sandbox(SandboxId::from_uuid(Uuid::now_v7())).await.unwrap(), None);
}

pub(crate) async fn a_sandbox_is_updated_only_from_the_named_state(records: &dyn Records) {
    let org = new_org(records).await;
    let old = bare_sandbox(org, at(0));
    records.commit(vec![insert(&old)]).await.unwrap();
    // Every field but the id, the organisation and the sealed environment may change.
    let new = Sandbox { id: old.id, metadata: [("k".to_owned(), "v".to_owned())].into(), ..full_sandbox(org, at(0)) };
    for from in SandboxState::ALL.into_iter().filter(|state| *state != old.state) {
        let refusal = records.commit(vec![update(&new, from)]).await.unwrap_err();
        assert!(matches!(refusal, RecordsError::Conflict(_)), "{from}: {refusal}");
        assert_eq!(records.sandbox(old.id).await.unwrap().as_ref(), Some(&old));
    }
    records.commit(vec![update(&new, old.state)]).await.unwrap();
    assert_eq!(records.sandbox(old.id).await.unwrap(), Some(new));
    assert_eq!(records.sandbox_env(old.id).await.unwrap(), Some(sealed("env")));
    let unknown = bare_sandbox(org, at(0));
    assert!(matches!(records.commit(vec![update(&unknown, unknown.state)]).await, Err(RecordsError::Conflict(_))));
}

pub(crate) async fn an_update_cannot_move_a_sandbox_to_another_organization(records: &dyn Records) {
    let (org, other) = (new_org(records).await, new_org(records).await);
    let sandbox = running_sandbox(org, at(0));
    records.commit(vec![insert(&sandbox)]).await.unwrap();
    let stolen = Sandbox { org_id: other, ..sandbox.clone() };
    assert!(matches!(records.commit(vec![update(&stolen, sandbox.state)]).await, Err(RecordsError::Conflict(_))));
    assert_eq!(records.sandbox(sandbox.id).await.unwrap(), Some(sandbox));
}

pub(crate) async fn environments_are_replaced_and_leave_with_the_sandbox(records: &dyn Records) {
    let sandbox = running_sandbox(new_org(records).await, at(0));
    let set = Change::SetSandboxEnv { id: sandbox.id, env: sealed("\0second\u{ff}") };
    assert!(matches!(records.commit(vec![set.clone()]).await, Err(RecordsError::Conflict(_))));
    records.commit(vec![insert(&sandbox), set.clone()]).await.unwrap();
    assert_eq!(records.sandbox_env(sandbox.id).await.unwrap(), Some(sealed("\0second\u{ff}")));
    records.commit(vec![Change::DeleteSandbox { id: sandbox.id, at: at(1) }]).await.unwrap();
    assert_eq!(records.sandbox_env(sandbox.id).await.unwrap(), None);
    assert!(matches!(records.commit(vec![set]).await, Err(RecordsError::Conflict(_))));
}

pub(crate) async fn deleted_sandboxes_leave_every_answer_and_keep_their_id(records: &dyn Records) {
    let org = new_org(records).await;
    let sandbox = full_sandbox(org, at(0));
    records.commit(vec![insert(&sandbox)]).await.unwrap();
    let delete = Change::DeleteSandbox { id: sandbox.id, at: at(1) };
    records.commit(vec![delete.clone()]).await.unwrap();
    assert_eq!(records.sandbox(sandbox.id).await.unwrap(), None);
    assert_eq!(records.sandboxes(SandboxFilter { org: Some(org), ..Default::default() }).await.unwrap(), []);
    assert_eq!(records.layers_in_use().await.unwrap(), []);
    assert!(matches!(records.commit(vec![update(&sandbox, sandbox.state)]).await, Err(RecordsError::Conflict(_))));
    assert!(
        matches!(records.commit(vec![insert(&sandbox)]).await, Err(RecordsError::Conflict(_))),
        "the id is used up"
    );
    // Two who delete at once have both done it.
    records.commit(vec![delete]).await.unwrap();
}

pub(crate) async fn sandboxes_are_listed_newest_first_with_a_stable_order(records: &dyn Records) {
    let org = new_org(records).await;
    let mut sandboxes: Vec<Sandbox> = (0..20).map(|n| bare_sandbox(org, at(n / 5))).collect();
    for sandbox in &mut sandboxes {
        // Random ids: ties must be broken by them, not by insertion.
        sandbox.id = SandboxId::from_uuid(Uuid::new_v4());
    }
    records.commit(sandboxes.iter().map(insert).collect()).await.unwrap();
    sandboxes.sort_by_key(|sandbox| std::cmp::Reverse((sandbox.created_at, sandbox.id)));
    let expected: Vec<_> = sandboxes.iter().map(|sandbox| sandbox.id).collect();
    let filter = |limit| SandboxFilter { org: Some(org), limit, ..Default::default() };
    assert_eq!(ids(records, filter(None)).await, expected);
    assert_eq!(ids(records, filter(Some(7))).await, expected[..7]);
    assert_eq!(ids(records, filter(Some(0))).await, []);
}

pub(crate) async fn sandboxes_are_filtered(records: &dyn Records) {
    let (org, other) = (new_org(records).await, new_org(records).await);
    let running = Sandbox { expires_at: at(100), ..running_sandbox(org, at(1)) };
    let stopped = Sandbox { stopped_at: Some(at(50)), expires_at: at(60), ..full_sandbox(org, at(2)) };
    let emptied = Sandbox {
        layer: None,
        ..Sandbox { id: SandboxId::from_uuid(Uuid::now_v7()), created_at: at(3), ..stopped.clone() }
    };
    let foreign = Sandbox { expires_at: at(1000), ..bare_sandbox(other, at(4)) };
    records.commit([&running, &stopped, &emptied, &foreign].map(insert).into()).await.unwrap();
    let none = SandboxFilter::default;
    type Row<'a> = (&'a str, SandboxFilter, Vec<&'a Sandbox>);
    let table: Vec<Row<'_>> = vec![
        ("everything", none(), vec![&foreign, &emptied, &stopped, &running]),
        ("org", SandboxFilter { org: Some(other), ..none() }, vec![&foreign]),
        ("no such org", SandboxFilter { org: Some(OrgId::from_uuid(Uuid::now_v7())), ..none() }, vec![]),
        ("server", SandboxFilter { server: Some(server()), ..none() }, vec![&foreign, &emptied, &stopped, &running]),
        ("another server", SandboxFilter { server: Some(ServerId::NOBODY), ..none() }, vec![]),
        ("one state", SandboxFilter { states: vec![SandboxState::Running], ..none() }, vec![&running]),
        (
            "states",
            SandboxFilter { states: vec![SandboxState::Creating, SandboxState::Running], ..none() },
            vec![&foreign, &running],
        ),
        ("expired just now", SandboxFilter { expired_at: Some(at(100)), ..none() }, vec![&emptied, &stopped, &running]),
        ("not yet", SandboxFilter { expired_at: Some(at(99)), ..none() }, vec![&emptied, &stopped]),
        ("stopped, with a layer", SandboxFilter { stopped_before: Some(at(50)), ..none() }, vec![&stopped]),
        ("stopped later", SandboxFilter { stopped_before: Some(at(49)), ..none() }, vec![]),
        (
            "all at once",
            SandboxFilter {
                org: Some(org),
                server: Some(server()),
                states: vec![SandboxState::Stopped],
                expired_at: Some(at(60)),
                stopped_before: Some(at(60)),
                limit: Some(5),
            },
            vec![&stopped],
        ),
    ];
    for (what, filter, expected) in table {
        let expected: Vec<_> = expected.into_iter().map(|sandbox| sandbox.id).collect();
        assert_eq!(ids(records, filter).await, expected, "{what}");
    }
}

pub(crate) async fn a_restarted_sandbox_does_not_count_as_stopped(records: &dyn Records) {
    let org = new_org(records).await;
    let stopped = Sandbox { stopped_at: Some(at(5)), ..full_sandbox(org, at(0)) };
    let started = Sandbox { state: SandboxState::Running, stop_reason: None::<StopReason>, ..stopped.clone() };
    let filter = || SandboxFilter { stopped_before: Some(at(1000)), ..Default::default() };
    records.commit(vec![insert(&stopped)]).await.unwrap();
    assert_eq!(ids(records, filter()).await, [stopped.id]);
    // The start may also switch layer and write the log in the same transaction.
    let started = Sandbox { layer: Some(layer()), ..started };
    let changes = vec![
        update(&started, SandboxState::Stopped),
        Change::InsertEvent(event(org, Some(stopped.id), at(6))),
        Change::InsertIdempotency(idempotency(org, "start", at(6))),
    ];
    records.commit(changes).await.unwrap();
    assert_eq!(ids(records, filter()).await, []);
}
