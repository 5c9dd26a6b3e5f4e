//! Loop devices: which file backs them, attaching one, following a file that grew. Layouts from
//! `linux/loop.h`.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;

const GET_STATUS64: u64 = 0x4C05;
const SET_CAPACITY: u64 = 0x4C07;
const CONFIGURE: u64 = 0x4C0A;
const CTL_GET_FREE: u64 = 0x4C82;

const FLAG_AUTOCLEAR: u32 = 4;
const FLAG_DIRECT_IO: u32 = 16;
const MAJOR: u32 = 7;
const BLOCK_SIZE: u32 = 4096;
/// Others may take the free device between asking for it and configuring it.
const ATTEMPTS: u32 = 64;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Info>() == 232 && size_of::<Config>() == 304);

/// An open loop device.
#[derive(Debug)]
pub(crate) struct LoopDevice {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    /// Whether it goes past the host's page cache.
    pub(crate) direct_io: bool,
}

/// Opens the loop device that `image` already backs, if there is one.
pub(crate) fn find(image: &File) -> io::Result<Option<LoopDevice>> {
    let stat = rustix::fs::fstat(image)?;
    let entries = match std::fs::read_dir("/sys/block") {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        // Only attached devices have the `loop` directory.
        if !name.as_encoded_bytes().starts_with(b"loop") || !entry.path().join("loop").exists() {
            continue;
        }
        let path = PathBuf::from("/dev").join(&name);
        let Ok(file) = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(&path) else {
            continue;
        };
        if let Ok(info) = status(&file)
            && info.inode == stat.st_ino
            && decode_device(info.device) == (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev))
        {
            let direct_io = info.flags & FLAG_DIRECT_IO != 0;
            return Ok(Some(LoopDevice { file, path, direct_io }));
        }
    }
    Ok(None)
}

/// Makes `image` a block device with direct I/O where the host file system can. It frees itself
/// when the last user, mount or descriptor, goes.
pub(crate) fn attach(image: &File) -> io::Result<LoopDevice> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    for _ in 0..ATTEMPTS {
        // SAFETY: LOOP_CTL_GET_FREE takes no argument and answers a number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), CTL_GET_FREE as libc::Ioctl) };
        let Ok(number) = u32::try_from(number) else {
            return Err(io::Error::last_os_error());
        };
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let file = open_device(&path, number)?;
        for flags in [FLAG_AUTOCLEAR | FLAG_DIRECT_IO, FLAG_AUTOCLEAR] {
            match configure(&file, image, flags) {
                Ok(()) => {
                    let direct_io = status(&file)?.flags & FLAG_DIRECT_IO != 0;
                    return Ok(LoopDevice { file, path, direct_io });
                }
                Err(e) if Errno::from_io_error(&e) == Some(Errno::BUSY) => break,
                // Not every host file system does direct I/O.
                Err(e) if Errno::from_io_error(&e) == Some(Errno::INVAL) && flags & FLAG_DIRECT_IO != 0 => {}
                Err(e) => return Err(e),
            }
        }
    }
    Err(Errno::BUSY.into())
}

/// Lets the device see that its file has grown.
pub(crate) fn refresh_size(device: &File) -> io::Result<()> {
    // SAFETY: LOOP_SET_CAPACITY takes no argument.
    match unsafe { libc::ioctl(device.as_raw_fd(), SET_CAPACITY as libc::Ioctl, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Where `/dev` is not kept by the kernel, the node of a new device is missing.
fn open_device(path: &std::path::Path, number: u32) -> io::Result<File> {
    let open = || OpenOptions::new().read(true).write(true).open(path);
    match open() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let device = rustix::fs::makedev(MAJOR, number);
            match rustix::fs::mknodat(rustix::fs::CWD, path, FileType::BlockDevice, Mode::from_raw_mode(0o600), device)
            {
                Ok(()) | Err(Errno::EXIST) => open(),
                Err(e) => Err(e.into()),
            }
        }
        opened => opened,
    }
}

fn configure(device: &File, image: &File, flags: u32) -> io::Result<()> {
    // SAFETY: all zeros is a valid value of this struct of integers.
    let mut config: Config = unsafe { std::mem::zeroed() };
    config.fd = u32::try_from(image.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    config.block_size = BLOCK_SIZE;
    config.info.flags = flags;
    // SAFETY: LOOP_CONFIGURE reads one `loop_config`, whose `fd` is open here.
    match unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE as libc::Ioctl, &raw const config) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn status(device: &File) -> io::Result<Info> {
    // SAFETY: all zeros is a valid value of this struct of integers.
    let mut info: Info = unsafe { std::mem::zeroed() };
    // SAFETY: LOOP_GET_STATUS64 writes one `loop_info64`, which `info` is.
    match unsafe { libc::ioctl(device.as_raw_fd(), GET_STATUS64 as libc::Ioctl, &raw mut info) } {
        0 => Ok(info),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The kernel's `huge_encode_dev`: minor in bits 0 to 7 and 20 up, major in bits 8 to 19.
fn decode_device(encoded: u64) -> (u32, u32) {
    let major = (encoded & 0xf_ff00) >> 8;
    let minor = (encoded & 0xff) | ((encoded >> 12) & 0xf_ff00);
    (major as u32, minor as u32)
}
