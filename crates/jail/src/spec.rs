//! What one sandbox is built from: the order that the host's side gives to `forkpoint-jail`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cgroups::CgroupJoin;

/// Ids of one sandbox: 0 to 65,535 inside are `uid_base` to `uid_base + 65_535` outside.
pub const IDS: u32 = 65_536;

/// The largest order in bytes that the jail reads.
pub const MAX_ORDER_BYTES: usize = 8 << 20;

/// One sandbox, as the jail is to build it.
///
/// Everything here comes from the host; nothing of it may be taken from inside a sandbox but the contents of
/// `identity` and `agent_config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Host name inside, 1 to 64 bytes.
    pub hostname: String,
    /// Absolute path of the template's root directory, the lower side of `/`. Owners on disk are those seen inside.
    pub template: PathBuf,
    /// Absolute path of the layer: a directory with `upper` and `work` in it, both owned by uid and gid 0.
    pub layer: PathBuf,
    /// First host id of the sandbox's range of [`IDS`] ids; not below [`IDS`], so that no id of the host is in it.
    pub uid_base: u32,
    /// Files that are fresh at each start, laid over the tree without changing the layer.
    pub identity: Vec<IdentityFile>,
    /// The control group that the sandbox's processes are in, see [`crate::cgroups::Group::join`].
    pub cgroup: CgroupJoin,
    /// The system call filter: [`crate::seccomp::program`].
    pub seccomp: Vec<u8>,
    /// Resource limits of the agent and so of everything it starts.
    pub rlimits: Vec<Rlimit>,
    /// Size of `/dev/shm` in bytes. Its contents count towards the sandbox's memory.
    pub shm_bytes: u64,
    /// Size of `/run` in bytes. Its contents count towards the sandbox's memory.
    pub run_bytes: u64,
    /// Handed to the agent as it is, in a sealed file on descriptor 3, offset 0.
    pub agent_config: Vec<u8>,
    /// The agent's arguments, the program's own name first.
    pub agent_argv: Vec<String>,
    /// Whether `/` is mounted read-only (the mounts on `/dev`, `/run` and the like stay writable).
    pub read_only_root: bool,
}

/// A file laid over the tree, such as `/etc/hosts`. It is owned by root inside and has mode 0644.
///
/// It appears only where the tree has a regular file at `path`, reached without symbolic links: making a mount point
/// would be a change of the layer, and following a link would let the tree choose where the mount goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityFile {
    /// Absolute path inside the sandbox.
    pub path: PathBuf,
    /// Its whole content; all identity files together may have up to 512 KiB.
    pub content: Vec<u8>,
}

/// One resource limit. Where the host's hard limit is lower and may not be raised, the host's is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    pub resource: Resource,
    pub soft: u64,
    pub hard: u64,
}

/// The resources that a [`Rlimit`] can bound, in the units of `setrlimit(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resource {
    /// Open files of a process.
    Nofile,
    /// Bytes of a core file.
    Core,
    /// Processes of a user; the control group's bound is the firm one.
    Nproc,
    /// Bytes of the first thread's stack.
    Stack,
    /// Bytes locked in memory.
    Memlock,
    /// Bytes of one file.
    Fsize,
    /// Bytes in message queues.
    Msgqueue,
    /// Queued signals.
    Sigpending,
}

impl Spec {
    /// A sandbox with the usual limits, the agent's usual name, no identity files and no configuration.
    pub fn new(hostname: &str, template: &Path, layer: &Path, uid_base: u32, cgroup: CgroupJoin) -> Self {
        Self {
            hostname: hostname.to_owned(),
            template: template.to_owned(),
            layer: layer.to_owned(),
            uid_base,
            identity: Vec::new(),
            cgroup,
            seccomp: crate::seccomp::program(),
            rlimits: default_rlimits(),
            shm_bytes: 64 << 20,
            run_bytes: 64 << 20,
            agent_config: Vec::new(),
            agent_argv: vec!["forkpoint-agent".to_owned()],
            read_only_root: false,
        }
    }

    /// What is wrong with the order, if anything is: the field, and what would be right.
    pub fn check(&self) -> Result<(), String> {
        if self.hostname.is_empty() || self.hostname.len() > 64 || self.hostname.contains('\0') {
            return Err(format!("hostname {:?} must have 1 to 64 bytes and no NUL", self.hostname));
        }
        for (name, path) in [("template", &self.template), ("layer", &self.layer)] {
            if !path.is_absolute() {
                return Err(format!("{name} {} must be an absolute path", path.display()));
            }
        }
        // The last value of the 32-bit range means "no change" to the kernel, so no range may reach it.
        if self.uid_base < IDS || self.uid_base.checked_add(IDS).is_none() {
            return Err(format!("uid_base {} must be from {IDS} to {}", self.uid_base, u32::MAX - IDS));
        }
        if self.agent_argv.is_empty() || self.agent_argv.iter().any(|argument| argument.contains('\0')) {
            return Err("agent_argv must have the program's name and no NUL".to_owned());
        }
        if self.seccomp.is_empty() || !self.seccomp.len().is_multiple_of(8) {
            return Err("seccomp must be a filter program: 8 bytes an instruction, at least one".to_owned());
        }
        if let Some(file) = self.identity.iter().find(|file| !file.path.is_absolute()) {
            return Err(format!("identity path {} must be absolute", file.path.display()));
        }
        Ok(())
    }
}

/// 65,536 open files, no core files, 8 MiB of locked memory, the usual room for message queues.
///
/// The bound for core files is 1 byte, not 0: for a `core_pattern` that pipes into a program the kernel ignores 0 and
/// starts that program on the host with the sandbox's memory as input, while 1 makes it give up in both cases.
/// The system call filter keeps this from being changed inside.
fn default_rlimits() -> Vec<Rlimit> {
    [(Resource::Nofile, 65_536), (Resource::Core, 1), (Resource::Memlock, 8 << 20), (Resource::Msgqueue, 819_200)]
        .map(|(resource, value)| Rlimit { resource, soft: value, hard: value })
        .to_vec()
}

/// The order as bytes: the sandbox and the agent's absolute path.
pub fn encode_order(spec: &Spec, agent: &Path) -> Result<Vec<u8>, String> {
    let bytes = postcard::to_stdvec(&(spec, agent)).map_err(|error| error.to_string())?;
    if bytes.len() > MAX_ORDER_BYTES {
        return Err(format!("has {} bytes, may have {MAX_ORDER_BYTES}", bytes.len()));
    }
    Ok(bytes)
}

/// The order read back.
pub fn decode_order(bytes: &[u8]) -> Result<(Spec, PathBuf), String> {
    postcard::from_bytes(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec::new("box", Path::new("/t"), Path::new("/l"), 0x1000_0000, CgroupJoin::V1(Vec::new()))
    }

    #[test]
    fn an_order_reads_back_as_it_was_written() {
        let mut spec = spec();
        spec.identity.push(IdentityFile { path: "/etc/hosts".into(), content: vec![0, 255] });
        spec.agent_config = vec![7; 70_000];
        let bytes = encode_order(&spec, Path::new("/agent")).unwrap();
        assert_eq!(decode_order(&bytes).unwrap(), (spec, PathBuf::from("/agent")));
        assert!(decode_order(&bytes[..bytes.len() / 2]).is_err());
    }

    #[test]
    fn an_order_that_would_touch_the_hosts_ids_or_relative_paths_is_refused() {
        assert_eq!(spec().check(), Ok(()));
        type Change = fn(&mut Spec);
        let wrong: [(&str, Change); 8] = [
            ("uid_base", |s| s.uid_base = 0),
            ("uid_base", |s| s.uid_base = IDS - 1),
            ("uid_base", |s| s.uid_base = u32::MAX - IDS + 1),
            ("template", |s| s.template = "t".into()),
            ("layer", |s| s.layer = "".into()),
            ("hostname", |s| s.hostname = "x".repeat(65)),
            ("seccomp", |s| s.seccomp = vec![0; 7]),
            ("agent_argv", |s| s.agent_argv.clear()),
        ];
        for (field, change) in wrong {
            let mut spec = spec();
            change(&mut spec);
            assert!(spec.check().unwrap_err().contains(field), "{field}");
        }
    }
}
