//! The sandbox's root: an overlay of the template and the layer, both with ids shifted to the sandbox's range.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use forkpoint_jail::Spec;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::process::fchdir;

use super::mounts::{self, DATA, PLAIN};
use crate::step::{Result, Step, failure};
use crate::sys;

/// The tree while it is furnished.
pub(crate) struct Tree {
    /// The overlay's root, attached.
    pub(crate) root: OwnedFd,
    /// A small tmpfs that goes with the host's root, but for those of its files that are mounted into the tree.
    pub(crate) scratch: OwnedFd,
    /// The agent's program, to be executed by descriptor.
    pub(crate) agent: OwnedFd,
}

/// Paths in the scratch directory. The overlay's are shown by `/proc/mounts`, so they say nothing about the host.
const LOWER: &str = "lower";
const LAYER: &str = "layer";
const ROOT: &str = "root";

/// Reached without symbolic links and without leaving the filesystem that it starts in.
const WITHIN: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

pub(crate) fn build(spec: &Spec, agent: &Path, userns: &OwnedFd) -> Result<Tree> {
    let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let template =
        openat(CWD, &spec.template, open, Mode::empty()).step_on("open template", spec.template.display())?;
    let layer = openat(CWD, &spec.layer, open, Mode::empty()).step_on("open layer", spec.layer.display())?;
    let lower = shifted(&template, userns, PLAIN | MountAttrFlags::MOUNT_ATTR_RDONLY).step("shift ids of template")?;
    let layer = shifted(&layer, userns, PLAIN).step("shift ids of layer")?;

    let scratch = mounts::new_filesystem("tmpfs", &[("size", "1m"), ("nr_inodes", "512"), ("mode", "0755")], DATA)?;
    // The template's directory is the one place of the host that is known to exist; what it holds is held already.
    mounts::attach(&scratch, &template).step("attach scratch directory")?;
    fchdir(&scratch).step("enter scratch directory")?;
    for (name, mount) in [(LOWER, &lower), (LAYER, &layer)] {
        attach_in_scratch(&scratch, name, mount).step_on("attach", name)?;
    }
    let (upper, work) = (format!("{LAYER}/upper"), format!("{LAYER}/work"));
    // A snapshot of the layer must be mountable again: no index and no handles, which bind a layer to its
    // filesystem's identity, and no data left behind in the template by a metadata-only copy.
    let options = [
        ("lowerdir", LOWER),
        ("upperdir", &upper),
        ("workdir", &work),
        ("redirect_dir", "on"),
        ("metacopy", "off"),
        ("index", "off"),
        ("nfs_export", "off"),
    ];
    let root = mounts::new_filesystem("overlay", &options, PLAIN)?;
    attach_in_scratch(&scratch, ROOT, &root).step("attach the new root")?;
    let agent = open_alone(agent, &scratch)?;
    Ok(Tree { root, scratch, agent })
}

impl Tree {
    /// A directory at the root to attach a filesystem on, made if the tree has none of that name.
    ///
    /// Made ones are a change of the layer: an empty directory where a tree that works has one anyway. A thing of
    /// another kind is refused. It cannot be made from inside, where these names are mount points.
    pub(crate) fn mount_point(&self, name: &str) -> Result<OwnedFd> {
        let open =
            || openat2(&self.root, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), WITHIN);
        let opened = match open() {
            Err(Errno::NOENT) => {
                mkdirat(&self.root, name, Mode::from_raw_mode(0o755))
                    .step_on("make mount point", format_args!("/{name}"))?;
                open()
            }
            other => other,
        };
        opened.map_err(|errno| {
            let message = match errno {
                Errno::LOOP => "is a symbolic link in the sandbox's tree, must be a directory".to_owned(),
                Errno::NOTDIR => "is not a directory in the sandbox's tree, must be one".to_owned(),
                other => crate::step::describe(other),
            };
            failure(&format!("open mount point /{name}"), Some(errno), &message)
        })
    }

    /// A regular file of the tree, reached without symbolic links; `None` if there is none.
    pub(crate) fn regular_file(&self, path: &str) -> rustix::io::Result<Option<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat2(&self.root, path, flags, Mode::empty(), WITHIN) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(None),
            other => other?,
        };
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        Ok(kind.is_file().then_some(file))
    }
}

/// A copy of a directory's mount in which the ids of the disk are seen shifted.
fn shifted(directory: &OwnedFd, userns: &OwnedFd, attributes: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let copy = mounts::copy(directory, c"")?;
    sys::set_mount_attributes(&copy, attributes, Some(userns.as_fd()))?;
    Ok(copy)
}

/// Opens a program of the host so that nothing of its path can be read from the descriptor or from a process that
/// runs it: by a mount of its directory alone, in which its path is `/` and its name.
///
/// The mount goes with the host's root and then lives on in the descriptor only.
fn open_alone(program: &Path, scratch: &OwnedFd) -> Result<OwnedFd> {
    const STEP: &str = "open the agent";
    let (Some(directory), Some(name)) = (program.parent(), program.file_name()) else {
        return Err(failure(STEP, None, "must be an absolute path of a file"));
    };
    let alone = mounts::copy(CWD, directory).step_on(STEP, program.display())?;
    sys::set_mount_attributes(&alone, PLAIN | MountAttrFlags::MOUNT_ATTR_RDONLY, None).step(STEP)?;
    attach_in_scratch(scratch, "agent", &alone).step(STEP)?;
    mounts::place(&alone, name).step_on(STEP, program.display())
}

fn attach_in_scratch(scratch: &OwnedFd, name: &str, mount: &OwnedFd) -> rustix::io::Result<()> {
    mkdirat(scratch, name, Mode::from_raw_mode(0o700))?;
    mounts::attach(mount, mounts::place(scratch, name)?)
}
