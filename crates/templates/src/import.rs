//! Taking in a root that was made elsewhere: a directory, a tar archive, an OCI layout, a docker-archive.
//!
//! Everything is unpacked into an empty directory by descriptors; the first thing that does not belong into a
//! template ends it all.

mod blobs;
mod directory;
mod image;
pub mod portable;
mod sparse;
mod stream;
mod tar;
mod unpack;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use self::blobs::Blobs;
use self::image::Image;
use self::stream::{Compression, Expanded, Section};
use self::unpack::{Role, unpack};
use crate::limits::Limits;
use crate::tree::write::TreeWriter;
use crate::{Error, Result, tree};

/// What was taken in besides the files.
#[derive(Debug)]
pub(crate) struct Taken {
    /// What the source was: `root directory`, `tar archive`, `OCI layout`, `docker-archive`.
    pub(crate) form: &'static str,
    /// Environment variables that an image sets.
    pub(crate) env: BTreeMap<String, String>,
    /// Devices below `/dev` that were left out.
    pub(crate) left_out: u64,
}

/// Told how many bytes of how many are read; an error ends the import.
pub(crate) type Tick<'a> = &'a mut dyn FnMut(u64, u64) -> Result<()>;

/// Unpacks `source` as `staging/rootfs`, which is made here.
pub(crate) fn take(source: &Path, tag: Option<&str>, staging: &Path, limits: &Limits, tick: Tick<'_>) -> Result<Taken> {
    let root = staging.join("rootfs");
    make_root(&root)?;
    // The operator's own path: links in it are meant.
    let stat = fs::metadata(source).map_err(Error::io("open", source))?;
    if stat.is_dir() {
        let source = source.canonicalize().map_err(Error::io("open", source))?;
        let blobs = Blobs::directory(&source, &source)?;
        if image::is_oci(&blobs) {
            let image = image::oci(&blobs, tag, limits)?;
            return apply(&blobs, image, "OCI layout", &root, limits, tick);
        }
        no_tag(&source, tag)?;
        let mut writer = TreeWriter::new(&root, &source.display().to_string(), limits.clone())?;
        directory::copy(&source, &mut writer, &mut || tick(0, 1))?;
        return finish(writer, &source, "root directory", 0);
    }
    if !stat.is_file() {
        return Err(Error::bad_import(source, "it is neither a file nor a directory"));
    }
    let file = File::open(source).map_err(Error::io("open", source))?;
    let copy = || file.try_clone().map_err(Error::io("open", source));
    let compression = Section::new(copy()?, 0, stat.len()).compression(source)?;
    if compression == Compression::None {
        let blobs = Blobs::archive(copy()?, source, limits)?;
        if let Some((image, form)) = find_image(&blobs, tag, limits)? {
            return apply(&blobs, image, form, &root, limits, tick);
        }
    }
    let origin = source.display().to_string();
    let mut writer = TreeWriter::new(&root, &origin, limits.clone())?;
    let left_out = if compression == Compression::None {
        let mut section = Section::new(copy()?, 0, stat.len()).seekable();
        let mut done = 0;
        unpack(&mut section, &origin, &mut writer, Role::Root, &mut || {
            done = (done + 1).min(stat.len());
            tick(done, stat.len())
        })?
    } else {
        let section = Section::new(copy()?, 0, stat.len());
        let mut expanded = Expanded::new(section, compression, limits, source, false)?;
        let consumed = expanded.consumed();
        let left_out =
            unpack(&mut expanded, &origin, &mut writer, Role::Root, &mut || tick(consumed.get(), stat.len()))?;
        expanded.finish()?;
        left_out
    };
    let taken = finish(writer, source, "tar archive", left_out)?;
    if compression == Compression::None {
        no_tag(source, tag)?;
        return Ok(taken);
    }
    // What was compressed shows only now whether it is a root or the parts of an image.
    let parts = staging.join("parts");
    let blobs = Blobs::directory(&root, source)?;
    let Some((image, form)) = find_image(&blobs, tag, limits)? else {
        no_tag(source, tag)?;
        return Ok(taken);
    };
    fs::rename(&root, &parts).map_err(Error::io("move", &root))?;
    make_root(&root)?;
    let taken = apply(&blobs, image, form, &root, limits, tick)?;
    tree::remove(&parts)?;
    Ok(taken)
}

fn find_image(blobs: &Blobs, tag: Option<&str>, limits: &Limits) -> Result<Option<(Image, &'static str)>> {
    // An archive that `docker save` makes is both; the older form names its tags in full.
    if image::is_docker(blobs) {
        return image::docker(blobs, tag, limits).map(|image| Some((image, "docker-archive")));
    }
    if image::is_oci(blobs) {
        return image::oci(blobs, tag, limits).map(|image| Some((image, "OCI layout")));
    }
    Ok(None)
}

/// Lays the layers of an image over each other.
pub(crate) fn apply(
    blobs: &Blobs,
    image: Image,
    form: &'static str,
    root: &Path,
    limits: &Limits,
    tick: Tick<'_>,
) -> Result<Taken> {
    let source = blobs.path();
    let mut sections = Vec::new();
    for layer in &image.layers {
        let bad = |what: &str| Error::bad_import(source, format!("its layer {:?} {what}", layer.part));
        let section = blobs.open(&layer.part)?.ok_or_else(|| bad("is missing"))?;
        if layer.size.is_some_and(|size| size != section.len()) {
            return Err(bad("is not of the size that the image says"));
        }
        sections.push(section);
    }
    let total: u64 = sections.iter().map(Section::len).sum();
    let mut before = 0;
    let mut left_out = 0;
    let mut writer = TreeWriter::new(root, &source.display().to_string(), limits.clone())?;
    for (section, layer) in sections.into_iter().zip(&image.layers) {
        let size = section.len();
        let compression = section.compression(source)?;
        let mut expanded = Expanded::new(section, compression, limits, source, true)?;
        let consumed = expanded.consumed();
        let origin = format!("{}: layer {}", source.display(), layer.part);
        left_out +=
            unpack(&mut expanded, &origin, &mut writer, Role::Layer, &mut || tick(before + consumed.get(), total))?;
        if expanded.finish()? != layer.diff_id {
            let (part, digest) = (&layer.part, &layer.diff_id);
            return Err(Error::bad_import(
                source,
                format!("its layer {part:?} does not have the digest sha256:{digest}: it is damaged"),
            ));
        }
        before += size;
    }
    let taken = finish(writer, source, form, left_out)?;
    Ok(Taken { env: image.env, ..taken })
}

fn finish(writer: TreeWriter, source: &Path, form: &'static str, left_out: u64) -> Result<Taken> {
    let empty = writer.entries() <= 1 && writer.bytes() == 0;
    writer.finish()?;
    if empty {
        return Err(Error::bad_import(source, "there is nothing in it"));
    }
    Ok(Taken { form, env: BTreeMap::new(), left_out })
}

fn make_root(root: &Path) -> Result<()> {
    fs::create_dir(root).map_err(Error::io("create", root))?;
    tree::set_mode(root, 0o755)
}

/// A tag that cannot mean anything is a mistake.
fn no_tag(source: &Path, tag: Option<&str>) -> Result<()> {
    match tag {
        None => Ok(()),
        Some(tag) => Err(Error::bad_import(source, format!("it is no image, so it has no tag {tag:?}"))),
    }
}
