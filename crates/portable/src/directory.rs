//! An OCI layout as a directory: from an archive, and back. What an archive from a server holds is not believed: only
//! the names of a layout are written, and blobs only if they have the digest that they are named by.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tar::{Archive, EntryType};

use crate::emit::{END, Member, write_padding};
use crate::{Error, Result};

const BUFFER: usize = 256 << 10;

/// Writes an archive as a directory, which is made; its parent must be there. After an error a part of it is left.
///
/// # Errors
/// [`Error::NotACheckpoint`] if the archive holds anything but a layout, or is damaged.
pub fn unpack(archive: &mut dyn Read, into: &Path) -> Result<()> {
    let refuse = |problem: String| Error::NotACheckpoint(problem);
    let blobs = into.join("blobs").join("sha256");
    fs::create_dir(into).map_err(Error::io("make the directory"))?;
    fs::create_dir_all(&blobs).map_err(Error::io("make the directory"))?;
    let mut reader = Archive::new(archive);
    let (mut seen, mut buffer) = (0, vec![0; BUFFER]);
    for entry in reader.entries().map_err(Error::io("read the archive"))? {
        let mut entry = entry.map_err(Error::io("read the archive"))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let shown: String = name.chars().take(100).collect();
        let digest = name.strip_prefix("blobs/sha256/").filter(|digest| is_digest(digest)).map(str::to_owned);
        let path = match (entry.header().entry_type(), &name[..], &digest) {
            (EntryType::Directory, "blobs/" | "blobs/sha256/", _) => continue,
            (EntryType::Regular, "oci-layout" | "index.json", _) => into.join(&name),
            (EntryType::Regular, _, Some(digest)) => blobs.join(digest),
            _ => return Err(refuse(format!("{shown:?} is not part of an OCI layout"))),
        };
        seen += usize::from(matches!(&name[..], "oci-layout" | "index.json"));
        let mut file = File::create_new(path).map_err(Error::io("write a part of the layout"))?;
        let mut hasher = Sha256::new();
        let mut left = entry.size();
        while left > 0 {
            let got = entry.read(&mut buffer).map_err(Error::io("read the archive"))?;
            if got == 0 {
                return Err(refuse(format!("it is cut short within {shown:?}")));
            }
            left = left.saturating_sub(got as u64);
            hasher.update(&buffer[..got]);
            file.write_all(&buffer[..got]).map_err(Error::io("write a part of the layout"))?;
        }
        file.sync_all().map_err(Error::io("write a part of the layout"))?;
        if digest.is_some_and(|digest| hex::encode(hasher.finalize()) != digest) {
            return Err(refuse(format!("{shown:?} does not have this digest: it is damaged")));
        }
    }
    // Its end mark was read; what comes after it ends the transfer properly, or shows that it broke off.
    io::copy(&mut reader.into_inner(), &mut io::sink()).map_err(Error::io("read the archive"))?;
    if seen == 2 { Ok(()) } else { Err(refuse("oci-layout or index.json is missing in it".into())) }
}

/// Writes a layout's directory as an archive: only what belongs to a layout, always in the same order.
///
/// # Errors
/// [`Error::NotACheckpoint`] if it is no layout.
pub fn pack(from: &Path, to: &mut dyn Write) -> Result<()> {
    let failed = || Error::io("write the archive");
    for name in ["oci-layout", "index.json"] {
        if !from.join(name).is_file() {
            return Err(Error::NotACheckpoint(format!("{} has no {name}: it is no OCI layout", from.display())));
        }
        add(from, name, to)?;
    }
    for directory in [&b"blobs/"[..], b"blobs/sha256/"] {
        to.write_all(&Member::plain(directory, EntryType::Directory, 0).header()).map_err(failed())?;
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(from.join("blobs").join("sha256")).map_err(Error::io("list the layout's blobs"))? {
        let name = entry.map_err(Error::io("list the layout's blobs"))?.file_name();
        names.extend(name.into_string().ok().filter(|name| is_digest(name)));
    }
    names.sort_unstable();
    for name in names {
        add(from, &format!("blobs/sha256/{name}"), to)?;
    }
    to.write_all(&END).map_err(failed())
}

fn add(from: &Path, name: &str, to: &mut dyn Write) -> Result<()> {
    let file = File::open(from.join(name)).map_err(Error::io("read a part of the layout"))?;
    let size = file.metadata().map_err(Error::io("read a part of the layout"))?.len();
    to.write_all(&Member::plain(name.as_bytes(), EntryType::Regular, size).header())
        .map_err(Error::io("write the archive"))?;
    let copied = io::copy(&mut file.take(size), to).map_err(Error::io("write the archive"))?;
    if copied != size {
        return Err(Error::NotACheckpoint(format!("{name} became shorter while it was read")));
    }
    write_padding(to, size).map_err(Error::io("write the archive"))
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
