//! Prints how long layers take on this machine: snapshots of a small and a big layer, and walks
//! over many files. Run as root: `layer_times DIRECTORY [auto|btrfs|reflink|copy]`; the directory is made and removed.
#![allow(clippy::print_stdout)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use forkpoint_volumes::{
    Basis, Everything, LayerStore, MeasureLimits, StoreOptions, Tree, changes, compare, graft, measure,
    measure_snapshot, purge,
};
use uuid::Uuid;

const RUNS: usize = 200;
/// After this long fewer runs will do.
const LONG: Duration = Duration::from_secs(15);
const MIB: usize = 1 << 20;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let dir = std::env::args().nth(1).ok_or("usage: layer_times DIRECTORY [DRIVER]")?;
    let dir = Path::new(&dir);
    fs::create_dir(dir)?;
    let template = dir.join("template");
    fs::create_dir(&template)?;
    let driver = std::env::args().nth(2).unwrap_or_else(|| "auto".into()).parse()?;
    let options = StoreOptions { driver, initial_bytes: 4 << 30, ..StoreOptions::default() };
    let store = LayerStore::open(dir, options)?;
    let done = run(&store, &template);
    store.unmount()?;
    purge(dir)?;
    fs::remove_dir_all(dir)?;
    done
}

fn run(store: &LayerStore, template: &Path) -> Outcome<()> {
    println!("driver {}", store.driver());
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        let id = Uuid::new_v4();
        store.create(id)?;
        times.push(start.elapsed());
        store.delete(id)?;
    }
    print("empty layer", &mut times);
    let small = layer_of(store, 16, MIB / 16)?;
    snapshots(store, "snapshot, 1 MB", small)?;
    let big = layer_of(store, 64, 16 * MIB)?;
    snapshots(store, "snapshot, 1 GB", big)?;
    store.delete(big)?;
    let many = layer_of(store, 50_000, 1000)?;
    snapshots(store, "snapshot, 50,000 files", many)?;

    let tree = |id| Tree { template: template.to_owned(), layer: Some(store.path(id)) };
    let again = Uuid::new_v4();
    store.snapshot(many, again)?;
    fs::write(store.path(again).join("upper/d0/f0"), "changed")?;
    store.flush(again)?;
    for basis in [Basis::Changes, Basis::Merged] {
        time(&format!("measure 50,000 files, {basis:?}"), || {
            measure(&tree(many), &Everything, basis, MeasureLimits::NONE).map(|m| format!("{} files", m.file_count))
        })?;
        let snapshot = Uuid::new_v4();
        store.snapshot(many, snapshot)?;
        time(&format!("measure a new snapshot of them, {basis:?}"), || {
            measure_snapshot(&tree(snapshot), &Everything, basis, MeasureLimits::NONE)
                .map(|m| format!("{} files", m.file_count))
        })?;
    }
    time("changes of 50,000 files", || {
        let mut count = 0;
        changes(&tree(many), &mut |_| {
            count += 1;
            Ok(())
        })
        .map(|()| format!("{count} entries"))
    })?;
    time("compare 50,000 files with a snapshot", || {
        compare(&tree(many), &Everything, Basis::Changes, &tree(again), &Everything, Basis::Changes)
            .map(|diff| format!("{} modified", diff.modified.len()))
    })?;
    let same = layer_of(store, 50_000, 1000)?;
    time("compare 50,000 files with a stranger", || {
        compare(&tree(many), &Everything, Basis::Changes, &tree(same), &Everything, Basis::Changes)
            .map(|diff| format!("{} modified", diff.modified.len()))
    })?;
    let one = |onto: Uuid, from: Uuid| {
        let report = graft(&store.path(onto), template, &tree(from), &Everything, true)?;
        Ok::<_, forkpoint_volumes::Error>(format!("{} written", report.written))
    };
    time("graft of one change among 50,000 files", || one(again, many))?;
    let empty = Uuid::new_v4();
    store.create(empty)?;
    time("graft of 50,000 files", || one(empty, many))?;
    Ok(())
}

fn layer_of(store: &LayerStore, files: usize, bytes: usize) -> Outcome<Uuid> {
    let id = Uuid::new_v4();
    store.create(id)?;
    let mut content = vec![0; bytes];
    for n in 0..files {
        if n % 8 == 0 {
            store.grow_if_needed()?;
        }
        for (at, byte) in content.iter_mut().enumerate() {
            *byte = (at * 31 + n) as u8;
        }
        let dir = store.path(id).join(format!("upper/d{}", n / 100));
        fs::create_dir_all(&dir)?;
        fs::File::create(dir.join(format!("f{n}")))?.write_all(&content)?;
    }
    store.flush(id)?;
    Ok(id)
}

fn snapshots(store: &LayerStore, what: &str, source: Uuid) -> Outcome<()> {
    let mut pauses = Vec::new();
    let mut times = Vec::new();
    let mut removals = Vec::new();
    let begun = Instant::now();
    while times.len() < 3 || (times.len() < RUNS && begun.elapsed() < LONG) {
        let id = Uuid::new_v4();
        let start = Instant::now();
        let taken = store.begin_snapshot(source, id)?;
        pauses.push(start.elapsed());
        store.finish_snapshot(taken)?;
        times.push(start.elapsed());
        let start = Instant::now();
        store.delete(id)?;
        removals.push(start.elapsed());
    }
    print(what, &mut times);
    print("  of that, writers stand still", &mut pauses);
    print("  its removal", &mut removals);
    Ok(())
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    println!("{what}: p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms ({} runs)", at(50), at(95), at(99), times.len());
}

/// The second of two runs, so that the kernel knows the files.
fn time<E: std::error::Error + 'static>(what: &str, mut work: impl FnMut() -> Result<String, E>) -> Outcome<()> {
    let start = Instant::now();
    let said = work()?;
    let cold = start.elapsed();
    let start = Instant::now();
    work()?;
    let (first, second) = (cold.as_secs_f64() * 1e3, start.elapsed().as_secs_f64() * 1e3);
    println!("{what}: first {first:.1} ms, again {second:.1} ms ({said})");
    Ok(())
}
