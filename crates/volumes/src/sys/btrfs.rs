//! btrfs ioctls: subvolumes, snapshots, resize, lineage. Layouts from `linux/btrfs.h`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;

const MAGIC: u64 = 0x94;
const NAME_MAX: usize = 255;

/// `_IOW(0x94, number, size)`.
const fn write_code(number: u64, size: usize) -> u64 {
    (1 << 30) | ((size as u64) << 16) | (MAGIC << 8) | number
}

const RESIZE: u64 = write_code(3, size_of::<VolArgs>());
const SYNC: u64 = (MAGIC << 8) | 8;
const SNAP_DESTROY: u64 = write_code(15, size_of::<VolArgs>());
const SNAP_CREATE_V2: u64 = write_code(23, size_of::<VolArgsV2>());
const SUBVOL_CREATE_V2: u64 = write_code(24, size_of::<VolArgsV2>());
const SNAP_DESTROY_V2: u64 = write_code(63, size_of::<VolArgsV2>());
const GET_SUBVOL_INFO: u64 = (2 << 30) | ((size_of::<SubvolInfo>() as u64) << 16) | (MAGIC << 8) | 60;

/// `_IOWR(0x94, 17, struct btrfs_ioctl_search_args_v2)`; the results that follow the struct do not count.
const TREE_SEARCH_V2: u64 = (3 << 30) | ((size_of::<SearchArgs>() as u64) << 16) | (MAGIC << 8) | 17;
/// The first inode number of files in a subvolume, and the last: `BTRFS_FIRST_FREE_OBJECTID`, `BTRFS_LAST_FREE_OBJECTID`.
const INODES: (u64, u64) = (256, -256_i64 as u64);
/// `BTRFS_INODE_ITEM_KEY`: the first item of each inode.
const INODE_ITEM: u32 = 1;
/// Bytes of results taken at a time; the largest item is a node of 64 KiB.
const SEARCH_ROOM: usize = 1 << 20;

/// `_IOWR(0x94, 40, struct btrfs_ioctl_quota_ctl_args)` and `_IOR(0x94, 43, struct btrfs_ioctl_qgroup_limit_args)`.
const QUOTA_CTL: u64 = (3 << 30) | ((size_of::<QuotaCtl>() as u64) << 16) | (MAGIC << 8) | 40;
const QGROUP_LIMIT: u64 = (2 << 30) | ((size_of::<QgroupLimit>() as u64) << 16) | (MAGIC << 8) | 43;
/// `BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA`, kernel 6.7 and later.
const ENABLE_SIMPLE_QUOTA: u64 = 4;
/// `BTRFS_QGROUP_LIMIT_MAX_RFER`.
const MAX_REFERENCED: u64 = 1;

/// `struct btrfs_ioctl_quota_ctl_args`.
#[repr(C)]
struct QuotaCtl {
    cmd: u64,
    status: u64,
}

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
struct QgroupLimit {
    qgroupid: u64,
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    rsv_referenced: u64,
    rsv_exclusive: u64,
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_get_subvol_info_args`.
#[repr(C)]
struct SubvolInfo {
    treeid: u64,
    name: [u8; 256],
    parent_id: u64,
    dirid: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    transids: [u64; 4],
    ctime: Time,
    otime: Time,
    stime: Time,
    rtime: Time,
    reserved: [u64; 8],
}

#[repr(C)]
struct Time {
    sec: u64,
    nsec: u32,
}

/// `struct btrfs_ioctl_search_args_v2` with its `struct btrfs_ioctl_search_key`, without the results.
#[repr(C)]
#[derive(Clone, Copy)]
struct SearchArgs {
    tree: u64,
    /// Least and greatest inode number, offset and transaction.
    numbers: [u64; 2],
    offsets: [u64; 2],
    transactions: [u64; 2],
    types: [u32; 2],
    /// In: how many items to give at most; out: how many there are.
    items: u32,
    unused: u32,
    reserved: [u64; 4],
    room: u64,
}

/// The arguments and the place for results behind them.
#[repr(C)]
struct Search {
    args: SearchArgs,
    results: [u8; SEARCH_ROOM],
}

/// What the tree of a subvolume says of one inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) number: u64,
    /// Bytes.
    pub(crate) size: u64,
    pub(crate) links: u32,
    pub(crate) is_file: bool,
}

const _: () = assert!(size_of::<SearchArgs>() == 112);
const _: () = assert!(size_of::<VolArgs>() == 4096 && size_of::<VolArgsV2>() == 4096 && size_of::<SubvolInfo>() == 504);

/// Where a subvolume comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) uuid: [u8; 16],
    /// The subvolume it was a snapshot of; zeros if of none.
    pub(crate) parent: [u8; 16],
    /// When it was made: seconds and nanoseconds since 1970.
    pub(crate) made: (i64, u32),
}

/// Makes an empty subvolume `name` in `dir`.
pub(crate) fn subvolume_create(dir: impl AsFd, name: &str) -> io::Result<()> {
    let mut args = v2(0, name)?;
    // SAFETY: SUBVOL_CREATE_V2 reads one `btrfs_ioctl_vol_args_v2`, which `args` is.
    unsafe { call(dir.as_fd(), SUBVOL_CREATE_V2, &raw mut args) }
}

/// Makes `name` in `dir` a writable snapshot of the subvolume `source`. The kernel writes out the
/// source's dirty data and commits before it returns.
pub(crate) fn snapshot_create(dir: impl AsFd, name: &str, source: impl AsFd) -> io::Result<()> {
    let mut args = v2(i64::from(source.as_fd().as_raw_fd()), name)?;
    // SAFETY: SNAP_CREATE_V2 reads one `btrfs_ioctl_vol_args_v2`, whose `fd` is open here.
    unsafe { call(dir.as_fd(), SNAP_CREATE_V2, &raw mut args) }
}

/// Removes the subvolume `name` in `dir`, with all that is in it; its space comes back behind.
pub(crate) fn subvolume_destroy(dir: impl AsFd, name: &str) -> io::Result<()> {
    let mut args = v2(0, name)?;
    // SAFETY: SNAP_DESTROY_V2 reads one `btrfs_ioctl_vol_args_v2`, which `args` is.
    match unsafe { call(dir.as_fd(), SNAP_DESTROY_V2, &raw mut args) } {
        Err(e) if Errno::from_io_error(&e) == Some(Errno::NOTTY) => {
            let mut args = v1(name)?;
            // SAFETY: SNAP_DESTROY reads one `btrfs_ioctl_vol_args`, which `args` is.
            unsafe { call(dir.as_fd(), SNAP_DESTROY, &raw mut args) }
        }
        done => done,
    }
}

/// Commits everything of the file system that `fd` is on.
pub(crate) fn sync(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: SYNC takes no argument.
    unsafe { call::<u8>(fd.as_fd(), SYNC, std::ptr::null_mut()) }
}

/// Lets the file system that `fd` is on fill its only device.
pub(crate) fn resize_to_device(fd: impl AsFd) -> io::Result<()> {
    let mut args = v1("1:max")?;
    // SAFETY: RESIZE reads one `btrfs_ioctl_vol_args`, which `args` is.
    unsafe { call(fd.as_fd(), RESIZE, &raw mut args) }
}

/// Where the subvolume that holds `fd` comes from.
pub(crate) fn origin(fd: impl AsFd) -> io::Result<Origin> {
    // SAFETY: all zeros is a valid value of this struct of integers.
    let mut info: SubvolInfo = unsafe { std::mem::zeroed() };
    // SAFETY: GET_SUBVOL_INFO writes one `btrfs_ioctl_get_subvol_info_args`, which `info` is.
    unsafe { call(fd.as_fd(), GET_SUBVOL_INFO, &raw mut info) }?;
    Ok(Origin {
        uuid: info.uuid,
        parent: info.parent_uuid,
        made: (i64::try_from(info.otime.sec).unwrap_or(i64::MAX), info.otime.nsec),
    })
}

/// Gives each inode of the subvolume whose root directory `fd` is, by ascending number, as the last commit left it,
/// until `each` wants no more.
pub(crate) fn inodes(fd: impl AsFd, mut each: impl FnMut(Inode) -> bool) -> io::Result<()> {
    // SAFETY: all zeros is a valid value of this struct of integers.
    let mut search: Box<Search> = unsafe { Box::<Search>::new_zeroed().assume_init() };
    let mut next = (INODES.0, INODE_ITEM, 0_u64);
    loop {
        search.args = SearchArgs {
            tree: 0,
            numbers: [next.0, INODES.1],
            offsets: [next.2, u64::MAX],
            transactions: [0, u64::MAX],
            types: [next.1, u32::from(u8::MAX)],
            items: u32::MAX,
            unused: 0,
            reserved: [0; 4],
            room: SEARCH_ROOM as u64,
        };
        // SAFETY: TREE_SEARCH_V2 reads `args` and writes it and at most `room` bytes behind it, which `results` has.
        unsafe { call(fd.as_fd(), TREE_SEARCH_V2, &raw mut *search) }?;
        let Some(last) = each_inode(&search.results, search.args.items, &mut each)? else { return Ok(()) };
        next = match last {
            (number, kind, u64::MAX) if kind == u32::from(u8::MAX) => (number + 1, 0, 0),
            (number, kind, u64::MAX) => (number, kind + 1, 0),
            (number, kind, offset) => (number, kind, offset + 1),
        };
    }
}

/// Reads `count` results (`struct btrfs_ioctl_search_header` and the item); gives the last one's key, or `None` if there
/// was none or no more are wanted.
fn each_inode(
    mut results: &[u8],
    count: u32,
    each: &mut impl FnMut(Inode) -> bool,
) -> io::Result<Option<(u64, u32, u64)>> {
    const HEADER: usize = 32;
    let mut last = None;
    for _ in 0..count {
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let (header, rest) = results.split_at_checked(HEADER).ok_or_else(short)?;
        let number = |at: usize| u64::from_ne_bytes(std::array::from_fn(|n| header[at + n]));
        let small = |at: usize| u32::from_ne_bytes(std::array::from_fn(|n| header[at + n]));
        let (key, len) = ((number(8), small(24), number(16)), small(28) as usize);
        let (item, rest) = rest.split_at_checked(len).ok_or_else(short)?;
        // `struct btrfs_inode_item`, little-endian: size at 16, links at 40, mode at 52.
        if key.1 == INODE_ITEM && len >= 56 {
            let size = u64::from_le_bytes(std::array::from_fn(|n| item[16 + n]));
            let links = u32::from_le_bytes(std::array::from_fn(|n| item[40 + n]));
            let mode = u32::from_le_bytes(std::array::from_fn(|n| item[52 + n]));
            if !each(Inode { number: key.0, size, links, is_file: mode & 0o170_000 == 0o100_000 }) {
                return Ok(None);
            }
        }
        last = Some(key);
        results = rest;
    }
    Ok(last)
}

/// Switches simple quotas on for the file system that `fd` is on: each subvolume is charged for what it wrote.
/// `false` if the kernel does not know them.
pub(crate) fn enable_simple_quotas(fd: impl AsFd) -> io::Result<bool> {
    let mut args = QuotaCtl { cmd: ENABLE_SIMPLE_QUOTA, status: 0 };
    // SAFETY: QUOTA_CTL reads and writes one `btrfs_ioctl_quota_ctl_args`, which `args` is.
    match unsafe { call(fd.as_fd(), QUOTA_CTL, &raw mut args) } {
        Ok(()) => Ok(true),
        // On already.
        Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::EXIST | Errno::INPROGRESS)) => Ok(true),
        Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::INVAL | Errno::NOTTY | Errno::OPNOTSUPP)) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Limits what the subvolume that holds `fd` may be charged for, in bytes.
pub(crate) fn limit_charge(fd: impl AsFd, bytes: u64) -> io::Result<()> {
    // Group 0 means the one of the subvolume itself.
    let mut args = QgroupLimit {
        qgroupid: 0,
        flags: MAX_REFERENCED,
        max_referenced: bytes,
        max_exclusive: 0,
        rsv_referenced: 0,
        rsv_exclusive: 0,
    };
    // SAFETY: QGROUP_LIMIT reads one `btrfs_ioctl_qgroup_limit_args`, which `args` is.
    unsafe { call(fd.as_fd(), QGROUP_LIMIT, &raw mut args) }
}

fn v1(name: &str) -> io::Result<VolArgs> {
    let mut args = VolArgs { fd: 0, name: [0; 4088] };
    put_name(&mut args.name, name)?;
    Ok(args)
}

fn v2(fd: i64, name: &str) -> io::Result<VolArgsV2> {
    let mut args = VolArgsV2 { fd, transid: 0, flags: 0, unused: [0; 4], name: [0; 4040] };
    put_name(&mut args.name, name)?;
    Ok(args)
}

fn put_name(field: &mut [u8], name: &str) -> io::Result<()> {
    if name.is_empty() || name.len() > NAME_MAX || name.contains(['/', '\0']) || name == "." || name == ".." {
        return Err(Errno::INVAL.into());
    }
    field[..name.len()].copy_from_slice(name.as_bytes());
    Ok(())
}

/// One ioctl, repeated when a signal interrupts it.
///
/// # Safety
/// `arg` must be what the kernel reads or writes for `code`.
unsafe fn call<T>(fd: BorrowedFd<'_>, code: u64, arg: *mut T) -> io::Result<()> {
    loop {
        // SAFETY: the descriptor is open for the borrow; the caller vouches for `arg`.
        if unsafe { libc::ioctl(fd.as_raw_fd(), code as libc::Ioctl, arg) } >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
