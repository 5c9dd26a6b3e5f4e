//! Several servers: what is whose, who lives, who does which job.

use crate::support::samples::{
    at, bare_checkpoint, bare_sandbox, insert, insert_checkpoint, new_org, running_sandbox, server,
};
use forkpoint_domain::{
    checkpoint::Checkpoint,
    sandbox::{Sandbox, SandboxState},
    server::{Server, ServerId},
};
use forkpoint_engine::ports::records::{Change, Records, RecordsError};
use futures::future::join_all;
use jiff::Timestamp;

fn named(name: &str) -> ServerId {
    name.parse().unwrap()
}

fn take(job: &str, holder: ServerId, now: Timestamp, until: Timestamp) -> Change {
    Change::TakeLease { job: job.into(), holder, now, until }
}

async fn is_done(records: &dyn Records, change: Change) -> bool {
    match records.commit(vec![change]).await {
        Ok(()) => true,
        Err(RecordsError::Conflict(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

pub(crate) async fn what_is_on_a_server_is_changed_in_its_name_only(records: &dyn Records) {
    let org = new_org(records).await;
    let sandbox = running_sandbox(org, at(0));
    let checkpoint = bare_checkpoint(org, "one", at(0));
    records.commit(vec![insert(&sandbox), insert_checkpoint(&checkpoint)]).await.unwrap();
    let moved = Sandbox { server: named("00000001"), ..sandbox.clone() };
    assert!(!is_done(records, Change::UpdateSandbox { sandbox: Box::new(moved), from: SandboxState::Running }).await);
    let moved = Checkpoint { server: named("00000001"), ..checkpoint.clone() };
    assert!(!is_done(records, Change::UpdateCheckpoint { checkpoint: Box::new(moved) }).await);
    assert_eq!(records.sandbox(sandbox.id).await.unwrap(), Some(sandbox));
    assert_eq!(records.checkpoint(checkpoint.id).await.unwrap(), Some(checkpoint));
}

pub(crate) async fn rows_that_are_nobodys_go_to_the_first_server(records: &dyn Records) {
    let org = new_org(records).await;
    let old = Sandbox { server: ServerId::NOBODY, ..bare_sandbox(org, at(0)) };
    let saved = Checkpoint { server: ServerId::NOBODY, ..bare_checkpoint(org, "old", at(0)) };
    let other = bare_sandbox(org, at(0));
    records.commit(vec![insert(&old), insert(&other), insert_checkpoint(&saved)]).await.unwrap();
    for first in ["00000001", "00000002"] {
        records.commit(vec![Change::AdoptRows { server: named(first) }]).await.unwrap();
    }
    assert_eq!(records.sandbox(old.id).await.unwrap().unwrap().server, named("00000001"));
    assert_eq!(records.checkpoint(saved.id).await.unwrap().unwrap().server, named("00000001"));
    assert_eq!(records.sandbox(other.id).await.unwrap(), Some(other));
}

pub(crate) async fn servers_tell_where_they_are_and_until_when_they_live(records: &dyn Records) {
    assert_eq!(records.server(server()).await.unwrap(), None);
    let told = Server { id: server(), host: "ünï".into(), address: "127.0.0.1:7070".into(), alive_until: at(20) };
    let later = Server { address: "[::1]:7071".into(), alive_until: at(25), ..told.clone() };
    for one in [told, later] {
        records.commit(vec![Change::SeeServer(one.clone())]).await.unwrap();
        assert_eq!(records.server(server()).await.unwrap(), Some(one));
    }
}

pub(crate) async fn a_job_is_one_servers_until_its_lease_runs_out(records: &dyn Records) {
    let (one, two) = (named("00000001"), named("00000002"));
    assert!(is_done(records, take("job", one, at(0), at(20))).await);
    assert!(!is_done(records, take("job", two, at(19), at(39))).await, "it is not over yet");
    assert!(is_done(records, take("other job", two, at(19), at(39))).await);
    assert!(is_done(records, take("job", one, at(19), at(30))).await, "renewed");
    assert!(!is_done(records, take("job", two, at(29), at(49))).await, "since it was renewed");
    assert!(is_done(records, take("job", two, at(30), at(50))).await, "it is over");
    assert!(!is_done(records, take("job", one, at(31), at(51))).await, "and is the other's now");
    records.commit(vec![Change::EndLease { job: "job".into(), holder: two }]).await.unwrap();
    assert!(is_done(records, take("job", one, at(31), at(51))).await, "given back early");
    records.commit(vec![Change::Prune { before: at(52) }]).await.unwrap();
    assert!(is_done(records, take("job", two, at(31), at(51))).await, "forgotten long after");
}

pub(crate) async fn a_result_is_recorded_only_by_who_still_has_the_job(records: &dyn Records) {
    let (one, two) = (named("00000001"), named("00000002"));
    let org = new_org(records).await;
    let checkpoint = bare_checkpoint(org, "one", at(0));
    records.commit(vec![insert_checkpoint(&checkpoint), take("job", one, at(0), at(20))]).await.unwrap();
    assert!(is_done(records, take("job", two, at(20), at(40))).await);
    // The first one comes late with its result.
    let result = |name: &str, holder| {
        let checkpoint = Checkpoint { name: name.into(), ..checkpoint.clone() };
        let update = Change::UpdateCheckpoint { checkpoint: Box::new(checkpoint) };
        vec![update, Change::EndLease { job: "job".into(), holder }]
    };
    assert!(matches!(records.commit(result("late", one)).await, Err(RecordsError::Conflict(_))));
    assert_eq!(records.checkpoint(checkpoint.id).await.unwrap().unwrap().name, "one");
    records.commit(result("done", two)).await.unwrap();
    assert!(matches!(records.commit(result("later", one)).await, Err(RecordsError::Conflict(_))));
    assert_eq!(records.checkpoint(checkpoint.id).await.unwrap().unwrap().name, "done");
}

pub(crate) async fn of_many_who_claim_a_job_at_once_one_gets_it(records: &dyn Records) {
    for round in 0..5 {
        let job = format!("job {round}");
        let claims = (1..=10).map(|n| is_done(records, take(&job, named(&format!("{n:08x}")), at(0), at(20))));
        assert_eq!(join_all(claims).await.into_iter().filter(|done| *done).count(), 1);
        let claims = (1..=10).map(|n| is_done(records, take(&job, named(&format!("{n:08x}")), at(20), at(40))));
        assert_eq!(join_all(claims).await.into_iter().filter(|done| *done).count(), 1, "after the first one's end");
    }
}
