//! What a data directory has on the host, counted without the program's help.

use crate::support::Server;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// The subvolume that new layers are made from.
const EMPTY: &str = ".empty";

/// Everything of a data directory that can be seen from outside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// Processes in the groups of each sandbox.
    pub(crate) processes: BTreeMap<String, usize>,
    /// Sandboxes with a group in at least one hierarchy.
    pub(crate) groups: BTreeSet<String>,
    /// Sandboxes that are remembered as running, and whatever else lies beside.
    pub(crate) remembered: BTreeSet<String>,
    /// Mounts below the data directory.
    pub(crate) mounts: usize,
    /// Slots that end in the hub.
    pub(crate) links: usize,
    /// Subvolumes.
    pub(crate) layers: usize,
    /// Other entries beside the layers.
    pub(crate) leftovers: Vec<String>,
}

/// The name of everything that a data directory owns.
pub(crate) fn instance(data_dir: &Path) -> String {
    fs::read_to_string(data_dir.join("id")).unwrap().trim().to_owned()
}

/// Mount points of control groups.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.filter(|line| line[2].starts_with("cgroup")).map(|line| PathBuf::from(line[1])).collect()
}

/// The groups' directories of a data directory.
pub(crate) fn group_directories(data_dir: &Path) -> Vec<PathBuf> {
    let instance = instance(data_dir);
    let parents = hierarchies().into_iter().map(|root| root.join("forkpoint").join(&instance));
    let entries = parents.filter_map(|parent| fs::read_dir(parent).ok()).flatten().flatten();
    entries.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()).collect()
}

/// Every process that is in a group of this data directory, with the sandbox's id.
pub(crate) fn processes(data_dir: &Path) -> Vec<(i32, String)> {
    let mark = format!("/forkpoint/{}/", instance(data_dir));
    let numbers = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter_map(|pid: i32| {
            // A process that is ending by itself is as good as gone, and one that is dead has no groups.
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
            let line = groups.lines().find(|line| line.contains(&mark))?;
            let rest = &line[line.find(&mark)? + mark.len()..];
            Some((pid, rest.split('/').next()?.to_owned()))
        })
        .collect()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Looks at the host.
pub(crate) fn see(data_dir: &Path) -> Seen {
    let mut seen = Seen::default();
    for (_, sandbox) in processes(data_dir) {
        *seen.processes.entry(sandbox).or_default() += 1;
    }
    seen.groups = group_directories(data_dir)
        .into_iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let entries = fs::read_dir(data_dir.join("run/instances")).unwrap();
    seen.remembered = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| name.strip_suffix(".json").map_or(name.clone(), str::to_owned))
        .collect();
    let below = format!("{}/", data_dir.display());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    seen.mounts = mounts.lines().filter(|line| line.split(' ').nth(1).unwrap().starts_with(&below)).count();
    let hub = format!("--net={}", data_dir.join("run/hub").display());
    let links = output("nsenter", &[&hub, "ip", "-o", "link"]);
    let is_slot = |line: &&str| {
        let name = line.split(": ").nth(1).unwrap_or_default();
        name.strip_prefix('s').is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    };
    seen.links = links.lines().filter(is_slot).count();
    let layers = data_dir.join("layers");
    let names = fs::read_dir(&layers).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let (of_layers, others): (Vec<String>, Vec<String>) =
        names.filter(|name| name != EMPTY).partition(|name| uuid::Uuid::try_parse(name).is_ok());
    seen.leftovers = others;
    seen.layers = of_layers.len();
    if data_dir.join("layers.img").exists() {
        let subvolumes = output("btrfs", &["subvolume", "list", layers.to_str().unwrap()]);
        seen.layers = subvolumes.lines().filter(|line| !line.ends_with(EMPTY)).count();
    }
    seen
}

/// What the API lists: sandboxes that run, all sandboxes, checkpoints.
pub(crate) async fn listed(server: &Server) -> (BTreeSet<String>, BTreeSet<String>, BTreeSet<String>) {
    let ids = |list: &Value, keep: fn(&Value) -> bool| {
        let all = list.as_array().unwrap().iter().filter(|one| keep(one));
        all.map(|one| one["id"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let sandboxes = server.get("/sandboxes").await.ok();
    let checkpoints = server.get("/checkpoints?limit=1000").await.ok();
    (
        ids(&sandboxes["sandboxes"], |one| one["state"] == "running"),
        ids(&sandboxes["sandboxes"], |_| true),
        ids(&checkpoints["checkpoints"], |_| true),
    )
}

/// Waits until the host holds what the API lists and not the least thing more, by our own count and by the
/// program's. What runs behind the answers may take a moment.
pub(crate) async fn nothing_leaks(server: &Server, within: Duration) {
    let deadline = Instant::now() + within;
    loop {
        let problem = leak(server).await;
        let Some(problem) = problem else { return };
        assert!(Instant::now() < deadline, "{problem}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn leak(server: &Server) -> Option<String> {
    let (running, sandboxes, checkpoints) = listed(server).await;
    let layers = sandboxes.len() + checkpoints.len();
    let seen = see(&server.data_dir());
    let (mounts, loops) = server.for_layers();
    let with_processes: BTreeSet<String> = seen.processes.keys().cloned().collect();
    let as_listed = with_processes == running
        && seen.groups == running
        && seen.remembered == running
        && (seen.mounts, seen.links, seen.layers) == (1 + mounts as usize, running.len(), layers)
        && seen.leftovers.is_empty();
    if !as_listed {
        return Some(format!("running {running:?}, {layers} layers named, but on the host are {seen:?}"));
    }
    let report = server.doctor();
    let owned = &report["owned"];
    let slots = running.len() + 1;
    let same = owned["cgroups"] == running.len()
        && owned["mounts"] == 1 + mounts
        && owned["namespaces"] == slots
        && owned["links"] == slots
        && owned["layers"] == layers
        && owned["loops"] == loops
        && report["orphans"] == json!([]);
    (!same).then(|| format!("{} run and {layers} layers are named, but doctor says {report}", running.len()))
}
