//! Checkpoints: reading back, deletion, lists and searching by name.

use crate::support::samples::{
    at, bare_checkpoint, full_checkpoint, insert, insert_checkpoint, layer, new_org, running_sandbox, sealed,
};
use forkpoint_domain::{
    checkpoint::{Checkpoint, CheckpointStatus, Durability},
    ids::CheckpointId,
    server::ServerId,
};
use forkpoint_engine::ports::records::{Change, CheckpointFilter, Kept, Records, RecordsError};
use uuid::Uuid;

async fn names(records: &dyn Records, filter: CheckpointFilter) -> Vec<String> {
    records.checkpoints(filter).await.unwrap().into_iter().map(|checkpoint| checkpoint.name).collect()
}

pub(crate) async fn checkpoints_read_back_with_every_field(records: &dyn Records) {
    let org = new_org(records).await;
    let (full, bare) = (full_checkpoint(org, "full", at(0)), bare_checkpoint(org, "bare", at(1)));
    for (checkpoint, env) in [(full, Some(sealed("secret"))), (bare, None)] {
        let change = Change::InsertCheckpoint { checkpoint: Box::new(checkpoint.clone()), env: env.clone() };
        records.commit(vec![change.clone()]).await.unwrap();
        assert_eq!(records.checkpoint(checkpoint.id).await.unwrap().as_ref(), Some(&checkpoint));
        assert_eq!(records.checkpoint_env(checkpoint.id).await.unwrap(), env);
        assert!(records.checkpoints(CheckpointFilter::default()).await.unwrap().contains(&checkpoint));
        assert!(matches!(records.commit(vec![change]).await, Err(RecordsError::Conflict(_))));
    }
    let unknown = CheckpointId::from_uuid(Uuid::now_v7());
    assert_eq!(records.checkpoint(unknown).await.unwrap(), None);
    assert_eq!(records.checkpoint_env(unknown).await.unwrap(), None);
}

pub(crate) async fn checkpoints_are_updated_and_deleted_once(records: &dyn Records) {
    let org = new_org(records).await;
    let old = bare_checkpoint(org, "old name", at(0));
    let change = Change::InsertCheckpoint { checkpoint: Box::new(old.clone()), env: Some(sealed("secret")) };
    records.commit(vec![change]).await.unwrap();
    let new = Checkpoint { id: old.id, ..full_checkpoint(org, "NEW name", at(0)) };
    let update = Change::UpdateCheckpoint { checkpoint: Box::new(new.clone()) };
    records.commit(vec![update.clone()]).await.unwrap();
    assert_eq!(records.checkpoint(old.id).await.unwrap(), Some(new));
    assert_eq!(records.checkpoint_env(old.id).await.unwrap(), Some(sealed("secret")));
    let found = |needle: &str| CheckpointFilter { name_contains: Some(needle.into()), ..Default::default() };
    assert_eq!(names(records, found("new")).await, ["NEW name"], "found by its new name");
    assert!(names(records, found("old")).await.is_empty(), "and no longer by its old one");

    let delete = Change::DeleteCheckpoint { id: old.id, at: at(1) };
    records.commit(vec![delete.clone()]).await.unwrap();
    assert_eq!(records.checkpoint(old.id).await.unwrap(), None);
    assert_eq!(records.checkpoint_env(old.id).await.unwrap(), None);
    assert_eq!(records.checkpoints(CheckpointFilter::default()).await.unwrap(), []);
    for change in [delete, update] {
        assert!(matches!(records.commit(vec![change]).await, Err(RecordsError::Conflict(_))));
    }
}

pub(crate) async fn durability_and_retention_are_set_by_themselves(records: &dyn Records) {
    let org = new_org(records).await;
    let one = Checkpoint { status: CheckpointStatus::Ready, ..bare_checkpoint(org, "one", at(0)) };
    records.commit(vec![insert_checkpoint(&one)]).await.unwrap();
    let stored = Checkpoint {
        durability: Durability::Durable,
        checksum: "b3:11".into(),
        durable_at: Some(at(5)),
        // Not part of it: another may have changed these meanwhile.
        pinned: true,
        name: "other".into(),
        ..one.clone()
    };
    let set = |from| Change::SetDurability { checkpoint: Box::new(stored.clone()), from };
    let keep = |until, pinned, then, pin| Change::SetRetention {
        id: one.id,
        from: Kept { until, pinned },
        to: Kept { until: then, pinned: pin },
    };
    records.commit(vec![keep(one.expires_at, one.pinned, Some(at(10)), true)]).await.unwrap();
    assert!(matches!(records.commit(vec![set(Durability::Failed)]).await, Err(RecordsError::Conflict(_))));
    records.commit(vec![set(Durability::Captured)]).await.unwrap();
    let expected = Checkpoint { expires_at: Some(at(10)), name: "one".into(), pinned: true, ..stored.clone() };
    assert_eq!(records.checkpoint(one.id).await.unwrap(), Some(expected));
    // Changed meanwhile: whoever read it before changes nothing.
    for (until, pinned) in [(None, true), (Some(at(11)), true), (Some(at(10)), false)] {
        let late = keep(until, pinned, None, false);
        assert!(matches!(records.commit(vec![late]).await, Err(RecordsError::Conflict(_))), "{until:?} {pinned}");
    }
    let expire = |seconds| Change::ExpireCheckpoint { id: one.id, at: at(seconds) };
    let due = CheckpointFilter { expired_at: Some(at(20)), org: Some(org), ..CheckpointFilter::default() };
    // Pinned, then not due yet, then due.
    assert_eq!(names(records, due.clone()).await, Vec::<String>::new());
    assert!(matches!(records.commit(vec![expire(20)]).await, Err(RecordsError::Conflict(_))));
    records.commit(vec![keep(Some(at(10)), true, Some(at(10)), false)]).await.unwrap();
    assert!(matches!(records.commit(vec![expire(9)]).await, Err(RecordsError::Conflict(_))));
    assert_eq!(names(records, due).await, ["one"]);
    for (filter, found) in [
        (CheckpointFilter { layer: Some(one.layer), ..CheckpointFilter::default() }, 1),
        (CheckpointFilter { layer: Some(layer()), ..CheckpointFilter::default() }, 0),
        (CheckpointFilter { durability: Some(Durability::Durable), org: Some(org), ..Default::default() }, 1),
        (CheckpointFilter { durability: Some(Durability::Failed), org: Some(org), ..Default::default() }, 0),
    ] {
        assert_eq!(records.checkpoints(filter).await.unwrap().len(), found);
    }
    assert!(!records.deleted_checkpoints().await.unwrap().contains(&(org, one.id)));
    records.commit(vec![expire(10)]).await.unwrap();
    assert!(records.deleted_checkpoints().await.unwrap().contains(&(org, one.id)));
    let retain = keep(Some(at(10)), false, None, false);
    for change in [expire(10), set(Durability::Durable), retain] {
        assert!(matches!(records.commit(vec![change]).await, Err(RecordsError::Conflict(_))));
    }
}

pub(crate) async fn checkpoints_are_filtered(records: &dyn Records) {
    let (org, other) = (new_org(records).await, new_org(records).await);
    let one = Checkpoint {
        status: CheckpointStatus::Ready,
        expires_at: Some(at(10)),
        durability: Durability::Durable,
        durable_at: Some(at(5)),
        ..bare_checkpoint(org, "one", at(1))
    };
    let two =
        Checkpoint { sandbox_id: one.sandbox_id, step_key: Some("k2".into()), ..bare_checkpoint(org, "two", at(2)) };
    let foreign = Checkpoint { expires_at: Some(at(20)), ..bare_checkpoint(other, "one", at(3)) };
    records.commit([&one, &two, &foreign].map(insert_checkpoint).into()).await.unwrap();
    let none = CheckpointFilter::default;
    let of = |org| CheckpointFilter { org: Some(org), ..none() };
    let table: Vec<(&str, CheckpointFilter, Vec<&Checkpoint>)> = vec![
        ("everything", none(), vec![&foreign, &two, &one]),
        ("oldest first", CheckpointFilter { oldest_first: true, ..none() }, vec![&one, &two, &foreign]),
        ("org", of(org), vec![&two, &one]),
        ("sandbox", CheckpointFilter { sandbox: Some(one.sandbox_id), ..none() }, vec![&two, &one]),
        ("another's sandbox", CheckpointFilter { sandbox: Some(one.sandbox_id), ..of(other) }, vec![]),
        ("exact name", CheckpointFilter { name_exact: Some("one".into()), ..of(org) }, vec![&one]),
        ("exact name in any org", CheckpointFilter { name_exact: Some("one".into()), ..none() }, vec![&foreign, &one]),
        ("exact means the case too", CheckpointFilter { name_exact: Some("ONE".into()), ..none() }, vec![]),
        ("expired", CheckpointFilter { expired_at: Some(at(10)), ..none() }, vec![&one]),
        ("not yet expired", CheckpointFilter { expired_at: Some(at(9)), ..none() }, vec![]),
        ("processing", CheckpointFilter { processing_only: true, ..none() }, vec![&foreign, &two]),
        ("server", CheckpointFilter { server: Some(one.server), ..of(org) }, vec![&two, &one]),
        ("another server", CheckpointFilter { server: Some(ServerId::NOBODY), ..none() }, vec![]),
        ("durable for long", CheckpointFilter { durable_before: Some(at(5)), ..none() }, vec![&one]),
        ("not for so long", CheckpointFilter { durable_before: Some(at(4)), ..none() }, vec![]),
        ("limit", CheckpointFilter { limit: Some(1), oldest_first: true, ..none() }, vec![&one]),
        ("outcomes of steps", CheckpointFilter { steps: Some(true), ..none() }, vec![&two]),
        ("no outcomes of steps", CheckpointFilter { steps: Some(false), ..none() }, vec![&foreign, &one]),
        ("step keys", CheckpointFilter { step_keys: vec!["k0".into(), "k2".into()], ..of(org) }, vec![&two]),
        ("unknown step keys", CheckpointFilter { step_keys: vec!["k0".into()], ..of(org) }, vec![]),
        (
            "all at once",
            CheckpointFilter {
                sandbox: Some(one.sandbox_id),
                name_contains: Some("ON".into()),
                name_exact: Some("one".into()),
                oldest_first: true,
                expired_at: Some(at(11)),
                limit: Some(3),
                ..of(org)
            },
            vec![&one],
        ),
    ];
    for (what, filter, expected) in table {
        let found: Vec<_> = records.checkpoints(filter).await.unwrap().into_iter().map(|found| found.id).collect();
        assert_eq!(found, expected.into_iter().map(|checkpoint| checkpoint.id).collect::<Vec<_>>(), "{what}");
    }
}

pub(crate) async fn names_are_found_in_any_case_and_script_and_literally(records: &dyn Records) {
    let org = new_org(records).await;
    let all = ["Été à Paris", "ОТЧЁТ", "100%_done", "100 percent done", r"C:\temp", "ΟΔΟΣΑ", "Straße", "日本"];
    let checkpoints: Vec<_> =
        (0..).zip(all).map(|(n, name)| insert_checkpoint(&bare_checkpoint(org, name, at(n)))).collect();
    records.commit(checkpoints).await.unwrap();
    let table: &[(&str, &[&str])] = &[
        ("ÉTÉ", &["Été à Paris"]),
        ("отчёт", &["ОТЧЁТ"]),
        ("%", &["100%_done"]),
        ("_", &["100%_done"]),
        ("0%_D", &["100%_done"]),
        ("100%done", &[]),
        ("100_percent", &[]),
        ("\\", &[r"C:\temp"]),
        (r"\t", &[r"C:\temp"]),
        (r"\%", &[]),
        ("οδος", &["ΟΔΟΣΑ"]),
        ("STRASSE", &["Straße"]),
        ("本", &["日本"]),
        ("' OR 1=1 --", &[]),
        ("", &["日本", "Straße", "ΟΔΟΣΑ", r"C:\temp", "100 percent done", "100%_done", "ОТЧЁТ", "Été à Paris"]),
    ];
    for (needle, expected) in table {
        let filter = CheckpointFilter { org: Some(org), name_contains: Some((*needle).into()), ..Default::default() };
        assert_eq!(names(records, filter).await, *expected, "{needle:?}");
    }
    // Neither is in any name, and neither upsets the engine.
    for needle in ["a\0".to_owned(), "x".repeat(1 << 20)] {
        for filter in [
            CheckpointFilter { name_contains: Some(needle.clone()), ..Default::default() },
            CheckpointFilter { name_exact: Some(needle.clone()), ..Default::default() },
        ] {
            assert!(names(records, filter).await.is_empty());
        }
    }
}

pub(crate) async fn exact_names_come_first_then_the_newest(records: &dyn Records) {
    let org = new_org(records).await;
    let all = ["Base", "base 2", "base", "my base"];
    let changes = (0..).zip(all).map(|(n, name)| insert_checkpoint(&bare_checkpoint(org, name, at(n)))).collect();
    records.commit(changes).await.unwrap();
    let filter = |oldest_first, limit| CheckpointFilter {
        org: Some(org),
        name_contains: Some("BASE".into()),
        oldest_first,
        limit,
        ..Default::default()
    };
    assert_eq!(names(records, filter(false, None)).await, ["base", "Base", "my base", "base 2"]);
    assert_eq!(names(records, filter(true, None)).await, ["Base", "base", "base 2", "my base"]);
    assert_eq!(names(records, filter(false, Some(1))).await, ["base"]);
}

pub(crate) async fn layers_in_use_are_those_of_what_is_not_deleted(records: &dyn Records) {
    let org = new_org(records).await;
    let (sandbox, deleted_sandbox) = (running_sandbox(org, at(0)), running_sandbox(org, at(0)));
    let shared = layer();
    let checkpoint = Checkpoint { layer: shared, ..bare_checkpoint(org, "one", at(0)) };
    let clone = Checkpoint { layer: shared, ..bare_checkpoint(org, "clone", at(0)) };
    let deleted = bare_checkpoint(org, "deleted", at(0));
    let changes = vec![
        insert(&sandbox),
        insert(&deleted_sandbox),
        insert_checkpoint(&checkpoint),
        insert_checkpoint(&clone),
        insert_checkpoint(&deleted),
        Change::DeleteSandbox { id: deleted_sandbox.id, at: at(1) },
        Change::DeleteCheckpoint { id: deleted.id, at: at(1) },
    ];
    records.commit(changes).await.unwrap();
    let mut expected = vec![sandbox.layer.unwrap(), shared];
    let mut found = records.layers_in_use().await.unwrap();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    // The layer of one clone is in use until the last one goes.
    records.commit(vec![Change::DeleteCheckpoint { id: checkpoint.id, at: at(2) }]).await.unwrap();
    assert!(records.layers_in_use().await.unwrap().contains(&shared));
    records.commit(vec![Change::DeleteCheckpoint { id: clone.id, at: at(2) }]).await.unwrap();
    assert_eq!(records.layers_in_use().await.unwrap(), [sandbox.layer.unwrap()]);
}

pub(crate) async fn deleted_checkpoints_are_remembered_until_they_are_pruned(records: &dyn Records) {
    let org = new_org(records).await;
    let (kept, early, late) = (
        bare_checkpoint(org, "kept", at(0)),
        bare_checkpoint(org, "early", at(0)),
        bare_checkpoint(org, "late", at(0)),
    );
    let changes = vec![
        insert_checkpoint(&kept),
        insert_checkpoint(&early),
        insert_checkpoint(&late),
        Change::DeleteCheckpoint { id: early.id, at: at(1) },
        Change::DeleteCheckpoint { id: late.id, at: at(3) },
    ];
    records.commit(changes).await.unwrap();
    let mut expected = [(org, early.id), (org, late.id)];
    let mut found = records.deleted_checkpoints().await.unwrap();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    records.commit(vec![Change::Prune { before: at(2) }]).await.unwrap();
    assert_eq!(records.deleted_checkpoints().await.unwrap(), [(org, late.id)]);
}

pub(crate) async fn a_number_no_column_holds_is_refused_and_changes_nothing(records: &dyn Records) {
    let org = new_org(records).await;
    let good = bare_checkpoint(org, "good", at(0));
    for bad in [
        Checkpoint { size_bytes: u64::MAX, ..bare_checkpoint(org, "bad", at(0)) },
        Checkpoint { pause_ms: f64::NAN, ..bare_checkpoint(org, "bad", at(0)) },
        Checkpoint { copy_duration_ms: f64::INFINITY, ..bare_checkpoint(org, "bad", at(0)) },
    ] {
        let refusal = records.commit(vec![insert_checkpoint(&good), insert_checkpoint(&bad)]).await.unwrap_err();
        assert!(matches!(refusal, RecordsError::Conflict(_)), "{refusal}");
        assert_eq!(records.checkpoint(good.id).await.unwrap(), None);
    }
}
