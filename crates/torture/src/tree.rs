//! What a sandbox's tree must be: contents, modes, owners, times, attributes, and which names are one file.

use rand::{Rng, rngs::StdRng};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::Arc,
};

/// Applies steps and shows the tree; it runs inside.
pub(crate) const SCRIPT: &str = include_str!("inside.py");

const NAMES: [&str; 6] = ["a", "b", "c d", "é", "-x", "z\u{1}z"];
/// Times of files, in nanoseconds: before 1970, an odd one, after 2038.
const TIMES: [i64; 3] = [-5_000_000_001, 1_600_000_000_123_456_789, 4_000_000_000_000_000_001];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    File(Arc<Vec<u8>>),
    Directory,
    Symlink(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inode {
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    ns: i64,
    attributes: BTreeMap<String, Vec<u8>>,
}

/// A tree below one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree {
    /// Relative path to number of the inode; the top is "".
    names: BTreeMap<String, usize>,
    inodes: BTreeMap<usize, Inode>,
    next: usize,
    /// The top is there and has been given a time.
    made: bool,
}

impl Tree {
    /// A tree that was never touched: not even its top is there.
    pub(crate) fn new() -> Self {
        Self { names: BTreeMap::new(), inodes: BTreeMap::new(), next: 0, made: false }
    }

    /// Makes some random steps, and gives them as the script takes them.
    pub(crate) fn steps(&mut self, random: &mut StdRng, count: usize) -> Value {
        let mut steps = Vec::new();
        if !self.made {
            self.made = true;
            self.insert("", Kind::Directory, 0o755, (0, 0), 0);
        }
        while steps.len() < count {
            steps.extend(self.step(random));
        }
        // Whatever was done in it before, the top's time is known now.
        let ns = time(random);
        self.touch("", ns);
        steps.push(json!({ "do": "none", "path": "none", "ns": ns }));
        Value::Array(steps)
    }

    /// Writes a file of noise.
    pub(crate) fn put(&mut self, path: &str, seed: u64, length: usize) -> Value {
        self.made = true;
        if !self.names.contains_key("") {
            self.insert("", Kind::Directory, 0o755, (0, 0), 0);
        }
        self.put_file(path, seed, length, length, (0o644, 0, 0), TIMES[1])
    }

    /// Removes a file.
    pub(crate) fn remove_file(&mut self, path: &str) -> Value {
        self.remove(path);
        self.touch(path, TIMES[1]);
        json!({ "do": "remove", "path": path, "ns": TIMES[1] })
    }

    fn step(&mut self, random: &mut StdRng) -> Option<Value> {
        let path = self.pick(random);
        let ns = time(random);
        let there = self.names.get(&path).map(|number| self.inodes[number].kind.clone());
        let is_file = matches!(there, Some(Kind::File(_)));
        match random.random_range(0..20) {
            0..=7 if there != Some(Kind::Directory) => {
                let length = match random.random_range(0..10) {
                    0..=5 => random.random_range(0..3000),
                    6..=8 => random.random_range(3000..90_000),
                    _ => random.random_range(90_000..400_000),
                };
                let size = if random.random_range(0..8) == 0 { length + 200_000 } else { length };
                let mode = [0o644, 0o600, 0o4755, 0o000][random.random_range(0..4)];
                let (uid, gid) = (random.random_range(0..3) * 1000, random.random_range(0..3) * 7);
                // Few seeds: the same contents come again elsewhere.
                let seed = random.random_range(0..40);
                Some(self.put_file(&path, seed, length, size, (mode, uid, gid), ns))
            }
            8 if is_file => {
                let (seed, length) = (random.random_range(0..40), random.random_range(1..5000));
                let inode = self.inode(&path)?;
                // The kernel may take these bits away from a file that is written to.
                if inode.mode & 0o6000 != 0 {
                    return None;
                }
                if let Kind::File(content) = &mut inode.kind {
                    Arc::make_mut(content).extend(noise(seed, length));
                }
                inode.ns = ns;
                Some(json!({ "do": "append", "path": path, "ns": ns, "seed": seed, "length": length }))
            }
            9..=11 if there.is_none() => {
                let mode = [0o755, 0o1777, 0o700][random.random_range(0..3)];
                self.insert(&path, Kind::Directory, mode, (0, 0), ns);
                self.touch(&path, ns);
                Some(json!({ "do": "mkdir", "path": path, "ns": ns, "mode": mode }))
            }
            12 => {
                self.remove(&path);
                self.touch(&path, ns);
                Some(json!({ "do": "remove", "path": path, "ns": ns }))
            }
            13 => {
                let target = ["a", "../nowhere", "/etc/passwd"][random.random_range(0..3)];
                self.remove(&path);
                self.insert(&path, Kind::Symlink(target.into()), 0, (0, 0), ns);
                self.touch(&path, ns);
                Some(json!({ "do": "symlink", "path": path, "ns": ns, "target": target }))
            }
            14 if is_file => {
                let to = self.pick(random);
                if self.names.contains_key(&to) {
                    return None;
                }
                self.names.insert(to.clone(), self.names[&path]);
                self.touch(&to, ns);
                Some(json!({ "do": "link", "path": path, "ns": ns, "to": to }))
            }
            15 | 16 if there.is_some() => self.rename(&path, &self.pick(random), ns),
            17 | 18 if is_file || there == Some(Kind::Directory) => {
                let (uid, gid, mode) = (random.random_range(0..4) * 333, random.random_range(0..3), 0o750);
                let inode = self.inode(&path)?;
                (inode.uid, inode.gid, inode.mode) = (uid, gid, mode);
                Some(json!({ "do": "own", "path": path, "ns": ns, "uid": uid, "gid": gid, "mode": mode }))
            }
            19 if is_file || there == Some(Kind::Directory) => {
                let (name, value) = (["user.one", "user.two"][random.random_range(0..2)], random.random::<[u8; 5]>());
                self.inode(&path)?.attributes.insert(name.into(), value.to_vec());
                let value = hex::encode(value);
                Some(json!({ "do": "attribute", "path": path, "ns": ns, "name": name, "value": value }))
            }
            _ => None,
        }
    }

    fn put_file(
        &mut self,
        path: &str,
        seed: u64,
        length: usize,
        size: usize,
        (mode, uid, gid): (u32, u32, u32),
        ns: i64,
    ) -> Value {
        let mut content = noise(seed, length);
        content.resize(size, 0);
        self.remove(path);
        self.insert(path, Kind::File(Arc::new(content)), mode, (uid, gid), ns);
        self.touch(path, ns);
        json!({
            "do": "put", "path": path, "ns": ns, "seed": seed, "length": length, "size": size,
            "mode": mode, "uid": uid, "gid": gid,
        })
    }

    fn rename(&mut self, path: &str, to: &str, ns: i64) -> Option<Value> {
        let inside = |one: &str, other: &str| one == other || one.starts_with(&format!("{other}/"));
        if inside(path, to) || inside(to, path) || self.names.get(path) == self.names.get(to) {
            return None;
        }
        self.remove(to);
        let moved: Vec<String> = self.names.keys().filter(|one| inside(one, path)).cloned().collect();
        for one in moved {
            if let Some(number) = self.names.remove(&one) {
                self.names.insert(format!("{to}{}", &one[path.len()..]), number);
            }
        }
        self.touch(path, ns);
        self.touch(to, ns);
        Some(json!({ "do": "rename", "path": path, "ns": ns, "to": to }))
    }

    fn insert(&mut self, path: &str, kind: Kind, mode: u32, (uid, gid): (u32, u32), ns: i64) {
        self.names.insert(path.to_owned(), self.next);
        self.inodes.insert(self.next, Inode { kind, mode, uid, gid, ns, attributes: BTreeMap::new() });
        self.next += 1;
    }

    fn inode(&mut self, path: &str) -> Option<&mut Inode> {
        self.inodes.get_mut(self.names.get(path)?)
    }

    /// The directory of `path` was changed then.
    fn touch(&mut self, path: &str, ns: i64) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        if let Some(inode) = self.inode(&folder) {
            inode.ns = ns;
        }
    }

    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.names.retain(|one, _| one != path && !one.starts_with(&below));
        let used: Vec<usize> = self.names.values().copied().collect();
        self.inodes.retain(|number, _| used.contains(number));
    }

    /// A name in one of its directories, taken or free.
    fn pick(&self, random: &mut StdRng) -> String {
        let is_folder =
            |path: &&String| path.matches('/').count() < 3 && self.inodes[&self.names[*path]].kind == Kind::Directory;
        let folders: Vec<&String> = self.names.keys().filter(is_folder).collect();
        let folder = folders[random.random_range(0..folders.len())];
        let name = NAMES[random.random_range(0..NAMES.len())];
        if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
    }

    /// As the script shows it.
    pub(crate) fn shown(&self) -> String {
        let mut text = String::new();
        let mut seen: HashMap<usize, String> = HashMap::new();
        if self.made {
            self.show("", &mut seen, &mut text);
        }
        text
    }

    fn show(&self, path: &str, seen: &mut HashMap<usize, String>, text: &mut String) {
        let number = self.names[path];
        let inode = &self.inodes[&number];
        let name = hex::encode(if path.is_empty() { "." } else { path });
        let owner = format!("{}|{}|{}", inode.uid, inode.gid, inode.ns);
        let attributes: String =
            inode.attributes.iter().map(|(name, value)| format!("|{name}={}", hex::encode(value))).collect();
        // Writing to a String does not fail.
        let _ = match &inode.kind {
            Kind::Directory => write!(text, "{name}|0o40000|0o{:o}|{owner}{attributes}", inode.mode),
            Kind::Symlink(target) => write!(text, "{name}|0o120000|{owner}|{target}"),
            Kind::File(content) => {
                let digest = hex::encode(Sha256::digest(&**content));
                write!(text, "{name}|0o100000|0o{:o}|{owner}{attributes}|{}|{digest}", inode.mode, content.len())
            }
        };
        if inode.kind != Kind::Directory {
            let first = seen.entry(number).or_insert_with(|| name.clone());
            let _ = write!(text, "|{first}");
        }
        text.push('\n');
        if inode.kind == Kind::Directory {
            for child in self.children(path) {
                self.show(child, seen, text);
            }
        }
    }

    /// Paths right below a directory, by their names.
    fn children(&self, path: &str) -> Vec<&String> {
        let depth = if path.is_empty() { 0 } else { path.matches('/').count() + 1 };
        let below = |one: &&String| {
            !one.is_empty()
                && one.matches('/').count() == depth
                && (path.is_empty() || one.starts_with(&format!("{path}/")))
        };
        let mut children: Vec<&String> = self.names.keys().filter(below).collect();
        children.sort_by_key(|child| child.rsplit('/').next().map(str::as_bytes));
        children
    }

    /// Files and links with what they hold, by their paths inside the sandbox.
    pub(crate) fn files(&self) -> BTreeMap<String, String> {
        let held = |inode: &Inode| match &inode.kind {
            Kind::File(content) => Some(format!("f{}", hex::encode(Sha256::digest(&**content)))),
            Kind::Symlink(target) => Some(format!("l{target}")),
            Kind::Directory => None,
        };
        let all = self.names.iter().filter_map(|(path, number)| Some((path, held(&self.inodes[number])?)));
        all.map(|(path, held)| (format!("/workspace/t/{path}"), held)).collect()
    }
}

fn time(random: &mut StdRng) -> i64 {
    TIMES[random.random_range(0..TIMES.len())] + random.random_range(0..1000)
}

/// The same bytes as the script's.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..length.div_ceil(32)).flat_map(|n| Sha256::digest(format!("{seed}:{n}"))).collect();
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::process::Command;

    /// The model and the script agree, here on this machine's own files.
    #[test]
    fn the_script_does_what_the_model_says() {
        let folder = tempfile::tempdir().unwrap();
        let script = SCRIPT.replace("/workspace/t", folder.path().to_str().unwrap());
        for seed in 0..4 {
            std::fs::remove_dir_all(folder.path()).unwrap();
            let mut random = StdRng::seed_from_u64(seed);
            let mut tree = Tree::new();
            for round in 0..12 {
                let steps = tree.steps(&mut random, 12).to_string();
                let output = Command::new("python3").args(["-c", &script, &steps]).output().unwrap();
                assert!(output.status.success(), "{steps}\n{}", String::from_utf8_lossy(&output.stderr));
                let shown = String::from_utf8(output.stdout).unwrap();
                assert_eq!(shown, tree.shown(), "seed {seed}, round {round}: {steps}");
            }
            assert!(tree.files().len() > 3, "{tree:?}");
        }
    }
}
