//! How long a commit takes: one caller after the other, and ten at once. `commit_bench [path-or-url] [commits]`.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

#[path = "../tests/support/samples.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "shared with the tests")]
mod samples;

use forkpoint_engine::ports::records::{Change, Records};
use forkpoint_records::Database;
use futures::future::join_all;
use std::{
    fs::File,
    io::Write,
    time::{Duration, Instant},
};

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let target = arguments.next().unwrap_or_else(|| directory.path().join("forkpoint.db").display().to_string());
    let commits: usize = arguments.next().map_or(2000, |text| text.parse().expect("a number of commits"));

    report("floor: append 4 KiB and fdatasync", 1, floor(commits.min(500), directory.path()));
    let database = Database::open(&target).await.expect("open");
    let org = samples::new_org(&database).await;
    for callers in [1, 10] {
        let rounds = commits / callers;
        let begun = Instant::now();
        let times = join_all((0..callers).map(|_| async {
            let mut times = Vec::with_capacity(rounds);
            for _ in 0..rounds {
                let sandbox = samples::running_sandbox(org, samples::at(0));
                let event = samples::event(org, Some(sandbox.id), samples::at(0));
                let changes = vec![samples::insert(&sandbox), Change::InsertEvent(event)];
                let start = Instant::now();
                database.commit(changes).await.expect("commit");
                times.push(start.elapsed());
            }
            times
        }))
        .await;
        report(&format!("create and event, {callers} at once"), callers, (times.concat(), begun.elapsed()));
    }
    let mut times = Vec::new();
    let begun = Instant::now();
    let sandboxes = database.sandboxes(Default::default()).await.expect("list");
    for sandbox in sandboxes.iter().take(commits) {
        let start = Instant::now();
        database.sandbox(sandbox.id).await.expect("read").expect("it is there");
        times.push(start.elapsed());
    }
    report("read one sandbox", 1, (times, begun.elapsed()));
    database.close().await;
}

/// What the disk itself takes for the least that a durable commit needs.
fn floor(times: usize, directory: &std::path::Path) -> (Vec<Duration>, Duration) {
    let mut file = File::create(directory.join("floor")).expect("create");
    let begun = Instant::now();
    let times = (0..times)
        .map(|_| {
            let start = Instant::now();
            file.write_all(&[7; 4096]).expect("write");
            file.sync_data().expect("sync");
            start.elapsed()
        })
        .collect();
    (times, begun.elapsed())
}

fn report(what: &str, callers: usize, (mut times, total): (Vec<Duration>, Duration)) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{what}: p50 {:.2} ms, p90 {:.2}, p99 {:.2}, max {:.2}; {:.0}/s with {callers}",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0),
        times.len() as f64 / total.as_secs_f64()
    );
}
