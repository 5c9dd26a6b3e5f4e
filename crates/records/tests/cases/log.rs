//! The event log, idempotency keys, and forgetting.

use crate::support::samples::{
    at, bare_checkpoint, event, idempotency, insert, insert_checkpoint, new_org, running_sandbox,
};
use forkpoint_domain::{event::Event, ids::OrgId};
use forkpoint_engine::ports::records::{Change, IdempotencyRecord, Records, RecordsError};
use uuid::Uuid;

pub(crate) async fn events_are_listed_newest_first_and_limited(records: &dyn Records) {
    let (org, other) = (new_org(records).await, new_org(records).await);
    let sandbox = running_sandbox(org, at(0)).id;
    let first = event(org, Some(sandbox), at(1));
    let second = Event { checkpoint_id: None, ..event(org, None, at(2)) };
    let third = event(org, Some(sandbox), at(3));
    let foreign = event(other, Some(sandbox), at(4));
    let all = [&third, &foreign, &first, &second];
    records.commit(all.map(|event| Change::InsertEvent(event.clone())).into()).await.unwrap();
    assert_eq!(records.events(org, None, 10).await.unwrap(), [third.clone(), second.clone(), first.clone()]);
    assert_eq!(records.events(org, None, 2).await.unwrap(), [third.clone(), second]);
    assert_eq!(records.events(org, Some(sandbox), 10).await.unwrap(), [third, first]);
    assert_eq!(records.events(OrgId::from_uuid(Uuid::now_v7()), Some(sandbox), 10).await.unwrap(), []);
    assert_eq!(records.events(org, None, 0).await.unwrap(), []);
}

pub(crate) async fn idempotency_keys_are_known_once_until_forgotten(records: &dyn Records) {
    let (org, other) = (new_org(records).await, new_org(records).await);
    let key = "été '\"%_\\ 1";
    let record = idempotency(org, key, at(1));
    records.commit(vec![Change::InsertIdempotency(record.clone())]).await.unwrap();
    assert_eq!(records.idempotent(org, key).await.unwrap(), Some(record.clone()));
    assert_eq!(records.idempotent(other, key).await.unwrap(), None);
    assert_eq!(records.idempotent(org, "ÉTÉ '\"%_\\ 1").await.unwrap(), None);
    assert_eq!(records.idempotent(org, "\0").await.unwrap(), None);

    let again = IdempotencyRecord { made: vec!["sb-9".into()], ..record.clone() };
    let refusal = records.commit(vec![Change::InsertIdempotency(again.clone())]).await.unwrap_err();
    assert!(matches!(refusal, RecordsError::Conflict(_)), "{refusal}");
    assert_eq!(records.idempotent(org, key).await.unwrap(), Some(record));
    let same_of_other = IdempotencyRecord { org: other, ..again.clone() };
    records.commit(vec![Change::InsertIdempotency(same_of_other)]).await.unwrap();

    let forget = Change::ForgetIdempotency { org, key: key.into() };
    records.commit(vec![forget.clone(), forget, Change::InsertIdempotency(again.clone())]).await.unwrap();
    assert_eq!(records.idempotent(org, key).await.unwrap(), Some(again));
    assert!(records.idempotent(other, key).await.unwrap().is_some());
}

pub(crate) async fn pruning_forgets_what_is_older_and_nothing_else(records: &dyn Records) {
    let org = new_org(records).await;
    let (old, new, alive) = (running_sandbox(org, at(0)), running_sandbox(org, at(0)), running_sandbox(org, at(0)));
    let old_checkpoint = bare_checkpoint(org, "old", at(0));
    let alive_checkpoint = bare_checkpoint(org, "alive", at(0));
    let mut changes: Vec<Change> = [&old, &new, &alive].map(insert).into();
    changes.extend([&old_checkpoint, &alive_checkpoint].map(insert_checkpoint));
    changes.extend([
        Change::DeleteSandbox { id: old.id, at: at(9) },
        Change::DeleteSandbox { id: new.id, at: at(10) },
        Change::DeleteCheckpoint { id: old_checkpoint.id, at: at(9) },
        Change::InsertEvent(event(org, None, at(9))),
        Change::InsertEvent(event(org, None, at(10))),
        Change::InsertIdempotency(idempotency(org, "old", at(9))),
        Change::InsertIdempotency(idempotency(org, "new", at(10))),
    ]);
    records.commit(changes).await.unwrap();
    records.commit(vec![Change::Prune { before: at(10) }]).await.unwrap();

    assert_eq!(records.events(org, None, 10).await.unwrap().iter().map(|event| event.at).collect::<Vec<_>>(), [at(10)]);
    assert_eq!(records.idempotent(org, "old").await.unwrap(), None);
    assert!(records.idempotent(org, "new").await.unwrap().is_some());
    assert_eq!(records.sandbox(alive.id).await.unwrap(), Some(alive));
    assert_eq!(records.checkpoint(alive_checkpoint.id).await.unwrap(), Some(alive_checkpoint));
    // A pruned tombstone gives its id free, one that is kept does not.
    records.commit(vec![insert(&old), insert_checkpoint(&old_checkpoint)]).await.unwrap();
    assert!(matches!(records.commit(vec![insert(&new)]).await, Err(RecordsError::Conflict(_))));
}
