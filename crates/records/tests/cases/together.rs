//! Transactions: all or nothing, alone and many at once.

use crate::support::samples::{
    api_key, at, bare_checkpoint, event, idempotency, insert, insert_checkpoint, new_org, running_sandbox, sealed, user,
};
use forkpoint_domain::sandbox::{Sandbox, SandboxState};
use forkpoint_engine::ports::records::{Change, Records, RecordsError, SandboxFilter};
use forkpoint_records::Database;
use futures::future::join_all;

pub(crate) async fn a_list_whose_last_change_conflicts_leaves_nothing(records: &dyn Records) {
    let org = new_org(records).await;
    let kept = Sandbox { state: SandboxState::Stopped, ..running_sandbox(org, at(0)) };
    let kept_checkpoint = bare_checkpoint(org, "kept", at(0));
    let kept_key = api_key(org, at(0));
    let before = vec![
        insert(&kept),
        insert_checkpoint(&kept_checkpoint),
        Change::InsertApiKey(kept_key.clone()),
        Change::InsertIdempotency(idempotency(org, "kept", at(0))),
        Change::InsertEvent(event(org, None, at(0))),
    ];
    records.commit(before).await.unwrap();

    let (new, new_key, new_checkpoint) =
        (running_sandbox(org, at(1)), api_key(org, at(1)), bare_checkpoint(org, "new", at(1)));
    let renamed = forkpoint_domain::checkpoint::Checkpoint { name: "renamed".into(), ..kept_checkpoint.clone() };
    let changes = vec![
        Change::InsertUser(user(org)),
        Change::InsertApiKey(new_key.clone()),
        Change::TouchApiKey { id: kept_key.id, at: at(2) },
        Change::RevokeApiKey { org, id: kept_key.id, at: at(2) },
        insert(&new),
        Change::SetSandboxEnv { id: kept.id, env: sealed("changed") },
        Change::UpdateCheckpoint { checkpoint: Box::new(renamed) },
        insert_checkpoint(&new_checkpoint),
        Change::DeleteCheckpoint { id: kept_checkpoint.id, at: at(2) },
        Change::DeleteSandbox { id: kept.id, at: at(2) },
        Change::InsertEvent(event(org, None, at(2))),
        Change::ForgetIdempotency { org, key: "kept".into() },
        Change::InsertIdempotency(idempotency(org, "new", at(2))),
        Change::Prune { before: at(1000) },
        // The sandbox is not running, so all of the above must not have been.
        Change::UpdateSandbox { sandbox: Box::new(kept.clone()), from: SandboxState::Running },
    ];
    assert!(matches!(records.commit(changes).await, Err(RecordsError::Conflict(_))));

    assert_eq!(records.sandboxes(SandboxFilter::default()).await.unwrap(), std::slice::from_ref(&kept));
    assert_eq!(records.sandbox_env(kept.id).await.unwrap(), Some(sealed("env")));
    assert_eq!(records.checkpoints(Default::default()).await.unwrap(), [kept_checkpoint]);
    assert_eq!(records.api_keys(org).await.unwrap(), [kept_key]);
    assert_eq!(records.api_key_by_hash(&new_key.hash).await.unwrap(), None);
    assert_eq!(records.events(org, None, 10).await.unwrap().len(), 1);
    assert!(records.idempotent(org, "kept").await.unwrap().is_some());
    assert_eq!(records.idempotent(org, "new").await.unwrap(), None);
}

pub(crate) async fn no_changes_are_no_transaction(records: &dyn Records) {
    records.commit(Vec::new()).await.unwrap();
}

pub(crate) async fn fifty_commits_at_once_all_happen(records: &dyn Records) {
    let org = new_org(records).await;
    let sandboxes: Vec<_> = (0..50).map(|n| running_sandbox(org, at(n))).collect();
    let outcomes = join_all(sandboxes.iter().map(|sandbox| {
        let happened = event(org, Some(sandbox.id), sandbox.created_at);
        records.commit(vec![insert(sandbox), Change::InsertEvent(happened)])
    }))
    .await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let mut listed = records.sandboxes(SandboxFilter { org: Some(org), ..Default::default() }).await.unwrap();
    listed.reverse();
    assert_eq!(listed, sandboxes);
    assert_eq!(records.events(org, None, 100).await.unwrap().len(), 50);
}

pub(crate) async fn a_conflict_among_many_fails_alone(records: &dyn Records) {
    let org = new_org(records).await;
    let known = running_sandbox(org, at(0));
    records.commit(vec![insert(&known)]).await.unwrap();
    let fresh: Vec<_> = (0..30).map(|n| running_sandbox(org, at(n + 1))).collect();
    // Every third one first adds something and then conflicts.
    let outcomes = join_all(fresh.iter().enumerate().map(|(n, sandbox)| {
        let mut changes = vec![insert(sandbox)];
        if n % 3 == 0 {
            changes.push(insert(&known));
        }
        records.commit(changes)
    }))
    .await;
    for (n, (sandbox, outcome)) in fresh.iter().zip(outcomes).enumerate() {
        let there = records.sandbox(sandbox.id).await.unwrap().is_some();
        if n % 3 == 0 {
            assert!(matches!(outcome, Err(RecordsError::Conflict(_))), "{n}: {outcome:?}");
            assert!(!there, "{n} was refused and is there");
        } else {
            assert!(outcome.is_ok(), "{n}: {outcome:?}");
            assert!(there, "{n} was accepted and is not there");
        }
    }
}

pub(crate) async fn of_two_updates_from_one_state_exactly_one_wins(records: &dyn Records) {
    let org = new_org(records).await;
    for round in 0..20 {
        let sandbox = running_sandbox(org, at(round));
        records.commit(vec![insert(&sandbox)]).await.unwrap();
        let rivals = [SandboxState::Stopping, SandboxState::Stopped].map(|state| Sandbox { state, ..sandbox.clone() });
        let outcomes = join_all(rivals.iter().map(|rival| {
            let change = Change::UpdateSandbox { sandbox: Box::new(rival.clone()), from: SandboxState::Running };
            records.commit(vec![Change::InsertEvent(event(org, Some(sandbox.id), at(round))), change])
        }))
        .await;
        let winners: Vec<_> = outcomes.iter().zip(&rivals).filter(|(outcome, _)| outcome.is_ok()).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        assert_eq!(records.sandbox(sandbox.id).await.unwrap().as_ref(), Some(winners[0].1));
        assert_eq!(records.events(org, Some(sandbox.id), 10).await.unwrap().len(), 1, "the loser left nothing");
    }
}

/// Of this crate's own implementation: each text of the registry is prepared on the engine.
pub(crate) async fn every_statement_fits_the_schema(database: &Database) {
    database.check_statements().await.unwrap();
}
