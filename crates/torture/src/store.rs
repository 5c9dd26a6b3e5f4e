//! Where the tortured server keeps its vault: a small disk of its own, or the endpoint of this harness.

use crate::endpoint::{BUCKET, Endpoint, Faults};
use anyhow::{Context, ensure};
use rand::{Rng, rngs::StdRng};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// Which kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A directory on a disk of its own.
    Local,
    /// S3 over HTTP.
    S3,
}

/// A store that can be made to fail, and looked into.
#[derive(Debug)]
pub(crate) enum Store {
    Local(Disk),
    S3(Endpoint),
}

impl Store {
    pub(crate) async fn start(kind: Kind, folder: &Path, seed: u64) -> anyhow::Result<Self> {
        Ok(match kind {
            Kind::Local => Self::Local(Disk::new(folder)?),
            Kind::S3 => Self::S3(Endpoint::start(seed).await?),
        })
    }

    /// Variables that let the program find it.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let pairs = match self {
            Self::Local(disk) => vec![("FORKPOINT_VAULT", disk.root().to_string_lossy().into_owned())],
            Self::S3(endpoint) => vec![
                ("FORKPOINT_VAULT", format!("s3://{BUCKET}/vault")),
                ("AWS_ENDPOINT_URL", endpoint.url.clone()),
                ("AWS_ACCESS_KEY_ID", "key".into()),
                ("AWS_SECRET_ACCESS_KEY", "secret".into()),
                ("AWS_REGION", "us-east-1".into()),
            ],
        };
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Lets it fail from now on; says how.
    pub(crate) fn fail(&self, random: &mut StdRng) -> anyhow::Result<&'static str> {
        match self {
            Self::Local(disk) => disk.fill().map(|()| "the store's disk is full"),
            Self::S3(endpoint) => {
                let some =
                    Faults { fail: 60, forget: 40, stall: 20, truncate: 60, lie: 40, deny: 20, ..Faults::default() };
                let (faults, what) = match random.random_range(0..6) {
                    0 => (Faults { down: true, ..Faults::default() }, "the object store is down"),
                    1 => (Faults { full: true, ..Faults::default() }, "the object store is full"),
                    2 => (Faults { lie: 500, ..Faults::default() }, "the object store lies"),
                    _ => (some, "the object store fails, forgets, stalls, truncates, lies and denies"),
                };
                endpoint.set(faults);
                Ok(what)
            }
        }
    }

    /// It works again.
    pub(crate) fn heal(&self) -> anyhow::Result<()> {
        match self {
            Self::Local(disk) => disk.empty(),
            Self::S3(endpoint) => {
                endpoint.set(Faults::default());
                Ok(())
            }
        }
    }

    /// How many requests have met a fault so far.
    pub(crate) fn faults_met(&self) -> u64 {
        match self {
            Self::Local(_) => 0,
            Self::S3(endpoint) => endpoint.met(),
        }
    }

    /// Keys of all objects as the vault names them, in order.
    pub(crate) fn keys(&self) -> anyhow::Result<Vec<String>> {
        let mut keys = match self {
            Self::Local(disk) => disk.keys()?,
            Self::S3(endpoint) => {
                let keys = endpoint.keys().into_iter();
                keys.filter_map(|key| key.strip_prefix("vault/").map(str::to_owned)).collect()
            }
        };
        keys.sort();
        Ok(keys)
    }

    pub(crate) fn read(&self, key: &str) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Local(disk) => fs::read(disk.root().join(key)).with_context(|| format!("read {key}")),
            Self::S3(endpoint) => endpoint.read(&format!("vault/{key}")).with_context(|| format!("no object {key}")),
        }
    }

    /// Replaces what lies under a key, or removes it, behind the vault's back.
    pub(crate) fn replace(&self, key: &str, bytes: Option<Vec<u8>>) -> anyhow::Result<()> {
        match self {
            Self::Local(disk) => {
                let path = disk.root().join(key);
                match bytes {
                    Some(bytes) => {
                        let time = fs::metadata(&path).and_then(|old| old.modified());
                        fs::write(&path, bytes)?;
                        if let Ok(time) = time {
                            File::options().write(true).open(&path)?.set_modified(time)?;
                        }
                    }
                    None => fs::remove_file(&path)?,
                }
                Ok(())
            }
            Self::S3(endpoint) => {
                endpoint.replace(&format!("vault/{key}"), bytes);
                Ok(())
            }
        }
    }
}

/// A file system of its own in a file.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
}

impl Disk {
    const BYTES: u64 = 192 << 20;

    fn new(folder: &Path) -> anyhow::Result<Self> {
        let disk = Self { folder: folder.into() };
        File::create(disk.image())?.set_len(Self::BYTES)?;
        fs::create_dir(disk.mounted())?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0"], &[&disk.image()])?;
        run("mount", &["-o", "loop"], &[&disk.image(), &disk.mounted()])?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.folder.join("store.img")
    }

    fn mounted(&self) -> PathBuf {
        self.folder.join("store")
    }

    fn root(&self) -> PathBuf {
        self.mounted().join("vault")
    }

    fn filler(&self) -> PathBuf {
        self.mounted().join("filler")
    }

    /// Takes all the room there is.
    fn fill(&self) -> anyhow::Result<()> {
        let mut file = File::options().create(true).append(true).open(self.filler())?;
        for size in [1 << 20, 4096] {
            let block = vec![1_u8; size];
            while file.write_all(&block).is_ok() {}
        }
        // Not all of it may reach the disk: it is full.
        let _ = file.sync_data();
        Ok(())
    }

    fn empty(&self) -> anyhow::Result<()> {
        match fs::remove_file(self.filler()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("empty the store's disk"),
            _ => Ok(()),
        }
    }

    fn keys(&self) -> anyhow::Result<Vec<String>> {
        let (root, mut keys) = (self.root(), Vec::new());
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Some(key) = path.strip_prefix(&root)?.to_str() {
                    keys.push(key.to_owned());
                }
            }
        }
        Ok(keys)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The loop device goes with the mount.
        let _ = rustix::mount::unmount(self.mounted(), rustix::mount::UnmountFlags::DETACH);
    }
}

fn run(program: &str, flags: &[&str], paths: &[&Path]) -> anyhow::Result<()> {
    let output = Command::new(program).args(flags).args(paths).output().with_context(|| format!("start {program}"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
