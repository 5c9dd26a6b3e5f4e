//! The inner process: first of the new pid namespace, it builds the sandbox around itself and becomes the agent.

mod furnish;
mod identity;
mod mounts;
mod rights;
mod tree;

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use forkpoint_jail::Spec;
use forkpoint_jail::report::{CONFIG_FD, REPORT_FD, StepError};
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, SeekFrom, fcntl_add_seals, memfd_create, openat, seek};
use rustix::io::{Errno, fcntl_dupfd_cloexec, read, write};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{fchdir, setsid, umask};
use rustix::system::{setdomainname, sethostname};

use crate::outer::ControlGroup;
use crate::step::{Result, Step, failure};
use crate::{FIRST_OWN_FD, replace_standard, sys};

/// What the inner process is given.
pub(crate) struct Building {
    pub(crate) spec: Spec,
    /// Absolute, without symbolic links.
    pub(crate) agent: PathBuf,
    pub(crate) group: ControlGroup,
    pub(crate) userns: OwnedFd,
    /// A byte is written to it when everything but the start of the agent is done.
    pub(crate) built: OwnedFd,
    /// A byte comes from it when the agent may be started; its end means that nobody waits any more.
    pub(crate) go: OwnedFd,
    pub(crate) report: &'static OwnedFd,
}

/// Builds the sandbox and becomes the agent; returns only why that failed.
pub(crate) fn run(building: &Building) -> StepError {
    match build_and_execute(building) {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

fn build_and_execute(building: &Building) -> Result<Infallible> {
    let spec = &building.spec;
    building.group.join()?;
    setsid().step("start a session")?;
    sys::new_session_keyring().step("start a key ring")?;
    sys::unshare_cgroup().step("make the control group namespace")?;
    sethostname(spec.hostname.as_bytes()).step("set the host name")?;
    setdomainname(b"(none)").step("set the domain name")?;
    // Nothing of what follows may reach the host's mounts.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).step("make mounts private")?;
    umask(Mode::empty());

    let tree = tree::build(spec, &building.agent, &building.userns)?;
    furnish::furnish(spec, &tree)?;
    identity::lay_over(&spec.identity, &tree)?;
    enter(&tree.root, spec.read_only_root)?;
    let agent = tree.agent;

    // Made by the sandbox's own /dev, so that no path of the host can be read from the descriptors.
    let null =
        openat(CWD, c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).step("open /dev/null inside")?;
    replace_standard(&null)?;
    let config = config_file(&spec.agent_config)?;
    let arguments = arguments(&spec.agent_argv)?;
    umask(Mode::WGRP | Mode::WOTH);
    sys::reset_signals();
    rights::limit_resources(&spec.rlimits)?;
    rights::give_up(&building.userns)?;

    write(&building.built, &[1]).step("tell that the sandbox is built")?;
    // A dead outer process closes its end: then nobody knows of this sandbox, and it must not come to life.
    if read(&building.go, &mut [0_u8; 1]) != Ok(1) {
        sys::exit_now(1);
    }
    sys::hand_down(&config, CONFIG_FD).step("hand down the configuration")?;
    sys::hand_down(building.report, REPORT_FD).step("hand down the report")?;
    sys::close_on_exec_from(REPORT_FD + 1).step("keep descriptors from the agent")?;
    sys::install_filter(&spec.seccomp).step("install the system call filter")?;
    Err::<Infallible, _>(sys::execute(&agent, &arguments)).step_on("start the agent", building.agent.display())
}

/// Makes the tree's root the root and lets go of the host's.
fn enter(root: &OwnedFd, read_only: bool) -> Result<()> {
    if read_only {
        mounts::make_read_only(root).step("make / read-only")?;
    }
    fchdir(root).step("enter the new root")?;
    sys::pivot_root_here().step("change the root")?;
    // The old root now lies on top of the new one.
    unmount(".", UnmountFlags::DETACH).step("let go of the old root")?;
    rustix::process::chdir("/").step("enter /")
}

/// A sealed file without a name that holds the agent's configuration, at its beginning.
fn config_file(config: &[u8]) -> Result<OwnedFd> {
    const STEP: &str = "write the agent's configuration";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know that a file may be made not executable; some later ones insist.
    let file = match memfd_create(c"config", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create(c"config", flags),
        other => other,
    };
    let file = fcntl_dupfd_cloexec(file.step(STEP)?, FIRST_OWN_FD).step(STEP)?;
    let mut left = config;
    while !left.is_empty() {
        left = &left[write(&file, left).step(STEP)?..];
    }
    seek(&file, SeekFrom::Start(0)).step(STEP)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&file, seals).step(STEP)?;
    Ok(file)
}

fn arguments(argv: &[String]) -> Result<Vec<CString>> {
    let argument = |argument: &String| CString::new(argument.as_str());
    argv.iter()
        .map(argument)
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| failure("read the agent's arguments", None, "an argument has a NUL in it"))
}
