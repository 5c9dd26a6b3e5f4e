//! The server has no file descriptors left: requests are refused, and everything works again when it has.

use crate::{host, support::Server};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;
use std::{
    fs,
    time::{Duration, Instant},
};

/// Lets the server open files up to this number.
fn allow(server: &Server, number: u64) {
    // As this process has it; raising it would need a right that is not always there.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let pid = Pid::from_raw(server.pid() as i32).unwrap();
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(number), maximum }).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_descriptors_refuses_and_recovers() {
    let mut server = Server::start().await;
    // Idle connections would keep what is short.
    server.client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
    let server = server;
    let kept = server.sandbox().await;
    server.sh(&kept, "echo kept > f; sync").await;
    let checkpoint = server.checkpoint(&kept, json!({ "name": "kept" })).await;
    let open = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count() as u64;
    let started = Instant::now();
    for room in [8, 30] {
        allow(&server, open + room);
        let asked = (0..24).map(|number| {
            let server = &server;
            let (kept, checkpoint) = (&kept, &checkpoint);
            async move {
                match number % 4 {
                    0 => server.post(&format!("/sandbox/{kept}/checkpoints"), json!({ "name": "short" })).await,
                    1 => server.post("/sandbox/create", json!({ "checkpoint_id": checkpoint })).await,
                    2 => {
                        let answer = server.exec_with(kept, json!({ "command": "true" })).await;
                        // The sandbox is well: what is short is the server's, and the request may be repeated.
                        assert!([200, 503].contains(&answer.status.as_u16()), "{answer:?}");
                        answer
                    }
                    _ => server.post("/sandbox/create", json!({})).await,
                }
            }
        });
        let all = futures::future::join_all(asked);
        let answers = tokio::time::timeout(Duration::from_secs(100), all).await;
        allow(&server, 4096);
        // Connections that could not be taken yet are taken now.
        let answers = answers.expect("a request hangs while descriptors are short");
        let refused = answers.iter().filter(|one| !one.status.is_success()).count();
        eprintln!("{:?}: room for {room} beside {open}: {refused} of {} refused", started.elapsed(), answers.len());
        for one in &answers {
            assert!(one.status.is_success() || [409, 503, 507].contains(&one.status.as_u16()), "{one:?}");
        }
        if room == 8 {
            assert!(refused > 0, "nothing was short");
        }
        let (_, sandboxes, checkpoints) = host::listed(&server).await;
        for id in sandboxes.iter().filter(|id| **id != kept) {
            server.delete(&format!("/sandbox/{id}")).await.ok();
        }
        for id in checkpoints.iter().filter(|id| **id != checkpoint) {
            server.delete(&format!("/checkpoints/{id}")).await.ok();
        }
    }
    assert_eq!(server.sh(&kept, "cat f").await, "kept\n");
    server.restore(&kept, &checkpoint).await;
    let again = server.sandbox().await;
    assert_eq!(server.sh(&again, "echo works").await, "works\n");
    eprintln!("{:?}: works again", started.elapsed());
    // What could not be undone for want of descriptors is undone by the next passes of the reconcilers.
    host::nothing_leaks(&server, Duration::from_secs(90)).await;
    eprintln!("{:?}: nothing left", started.elapsed());
}
