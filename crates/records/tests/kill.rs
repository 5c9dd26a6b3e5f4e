//! What was committed outlives SIGKILL at any moment, and nothing is ever there by half.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod support {
    #[allow(dead_code, reason = "shared by several test programs, each uses a part")]
    pub(crate) mod samples;
}

use forkpoint_domain::ids::{OrgId, SandboxId};
use forkpoint_engine::ports::records::{Change, Records, SandboxFilter};
use forkpoint_records::Database;
use futures::future::join_all;
use rand::Rng;
use std::{
    collections::HashSet,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};
use support::samples::{at, event, idempotency, insert, new_org, running_sandbox};

const ROLE: &str = "FORKPOINT_TEST_COMMITTER";
const ROUNDS: usize = 15;

#[test]
fn what_was_acknowledged_before_a_kill_is_there_after() {
    if let Ok(place) = std::env::var(ROLE) {
        commit_until_killed(&place);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("forkpoint.db").to_str().unwrap().to_owned();
    let org = runtime.block_on(async {
        let database = Database::open(&path).await.unwrap();
        let org = new_org(&database).await;
        database.close().await;
        org
    });
    let mut acknowledged = HashSet::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "what_was_acknowledged_before_a_kill_is_there_after", "--nocapture"])
            .env(ROLE, format!("{path}\n{org}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let kill_after = rand::rng().random_range(1..80);
        let mut seen = 0;
        // What the pipe still held when the child died was acknowledged too.
        for line in &mut lines {
            let Some(id) = line.strip_prefix("done ") else { continue };
            acknowledged.insert(id.parse::<SandboxId>().unwrap());
            seen += 1;
            if seen == kill_after {
                child.kill().unwrap();
            }
        }
        assert!(seen >= kill_after, "round {round}: the child ended by itself after {seen}");
        child.wait().unwrap();

        runtime.block_on(async {
            let database = Database::open(&path).await.unwrap();
            let found = database.sandboxes(SandboxFilter { org: Some(org), ..Default::default() }).await.unwrap();
            let ids: HashSet<_> = found.iter().map(|sandbox| sandbox.id).collect();
            let lost: Vec<_> = acknowledged.difference(&ids).collect();
            assert!(lost.is_empty(), "round {round}: lost {lost:?}");
            // Each transaction wrote three rows.
            let logged: HashSet<_> = database
                .events(org, None, u32::MAX)
                .await
                .unwrap()
                .into_iter()
                .filter_map(|event| event.sandbox_id)
                .collect();
            assert_eq!(logged, ids, "round {round}");
            for id in &ids {
                assert!(
                    database.idempotent(org, &id.to_string()).await.unwrap().is_some(),
                    "round {round}: {id} by half"
                );
            }
            database.close().await;
        });
    }
}

fn commit_until_killed(place: &str) -> ! {
    let (path, org) = place.split_once('\n').unwrap();
    let org: OrgId = org.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let database = Database::open(path).await.unwrap();
        let callers = (0..6).map(async |_| -> std::convert::Infallible {
            loop {
                let sandbox = running_sandbox(org, at(0));
                let changes = vec![
                    insert(&sandbox),
                    Change::InsertEvent(event(org, Some(sandbox.id), at(0))),
                    Change::InsertIdempotency(idempotency(org, &sandbox.id.to_string(), at(0))),
                ];
                database.commit(changes).await.unwrap();
                let mut out = std::io::stdout().lock();
                // One write: a line is acknowledged wholly or not at all.
                out.write_all(format!("done {}\n", sandbox.id).as_bytes()).unwrap();
                out.flush().unwrap();
            }
        });
        join_all(callers).await
    });
    unreachable!("the callers never end")
}
