//! Giving up what the agent must not have: resources without bound, the host's ids, capabilities.

use std::os::fd::{AsFd, OwnedFd};

use forkpoint_jail::{Resource, Rlimit};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::{self, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, move_into_link_name_space, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::step::{Result, Step};

/// What root inside can do, over ids and files of its own range alone; the namespaces of mounts, network, pids, host
/// name and ipc belong to the host, so that no capability reaches them.
const KEPT: [CapabilitySet; 11] = [
    // Package managers and archives set owners, ...
    CapabilitySet::CHOWN,
    // ... read and write files of any user, ...
    CapabilitySet::DAC_OVERRIDE,
    // ... set modes and times of them, ...
    CapabilitySet::FOWNER,
    // ... and keep set-id bits when they write (which have no effect: the tree is nosuid).
    CapabilitySet::FSETID,
    // The agent ends commands that run as other users.
    CapabilitySet::KILL,
    // The agent starts commands as other users and groups.
    CapabilitySet::SETGID,
    CapabilitySet::SETUID,
    // Giving up more of these.
    CapabilitySet::SETPCAP,
    // Programs that ask for it before they listen below 1024; what lets them is the namespace's sysctl.
    CapabilitySet::NET_BIND_SERVICE,
    // Package tools unpack and configure in a subtree.
    CapabilitySet::SYS_CHROOT,
    // Archives and packages carry file capabilities.
    CapabilitySet::SETFCAP,
];

/// Sets the limits. A hard limit above the host's is lowered to it, where the host does not let us raise it.
pub(crate) fn limit_resources(limits: &[Rlimit]) -> Result<()> {
    for Rlimit { resource, soft, hard } in limits.iter().copied() {
        let resource = kernel_resource(resource);
        let wanted = process::Rlimit { current: Some(soft.min(hard)), maximum: Some(hard) };
        let set = match setrlimit(resource, wanted) {
            Err(Errno::PERM) => {
                let hard = getrlimit(resource).maximum.map_or(hard, |of_host| of_host.min(hard));
                setrlimit(resource, process::Rlimit { current: Some(soft.min(hard)), maximum: Some(hard) })
            }
            other => other,
        };
        set.step_on("limit resource", format_args!("{resource:?}"))?;
    }
    Ok(())
}

/// Enters the user namespace, last of all, and keeps only what root inside needs.
pub(crate) fn give_up(userns: &OwnedFd) -> Result<()> {
    // While it still can be done: no group of the host stays.
    set_thread_groups(&[]).step("leave the host's groups")?;
    // Entering gives all capabilities in the namespace, takes all others, and resets the secure bits.
    move_into_link_name_space(userns.as_fd(), Some(LinkNameSpaceType::User)).step("enter the user namespace")?;
    let (user, group) = (Uid::ROOT, Gid::ROOT);
    set_thread_res_gid(group, group, group).step("become the group root")?;
    set_thread_res_uid(user, user, user).step("become root")?;
    let kept = KEPT.into_iter().fold(CapabilitySet::empty(), CapabilitySet::union);
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The first number that this kernel does not know.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno).step_on("bound capabilities by", number),
        }
    }
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).step("give up capabilities")?;
    set_no_new_privs(true).step("rule out new privileges")
}

fn kernel_resource(resource: Resource) -> process::Resource {
    match resource {
        Resource::Nofile => process::Resource::Nofile,
        Resource::Core => process::Resource::Core,
        Resource::Nproc => process::Resource::Nproc,
        Resource::Stack => process::Resource::Stack,
        Resource::Memlock => process::Resource::Memlock,
        Resource::Fsize => process::Resource::Fsize,
        Resource::Msgqueue => process::Resource::Msgqueue,
        Resource::Sigpending => process::Resource::Sigpending,
    }
}
