//! Container images: which of an OCI layout's or a docker-archive's parts make up the one image, all of them checked
//! against their digests.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::blobs::Blobs;
use crate::limits::Limits;
use crate::{Error, Result};

/// How deep lists of images may lie in lists of images.
const MAX_NESTING: u32 = 3;

/// An image: its layers from the lowest up, and what its settings say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) layers: Vec<Layer>,
    /// Environment variables of its commands.
    pub(crate) env: BTreeMap<String, String>,
    /// What its manifest says besides.
    pub(crate) annotations: BTreeMap<String, String>,
}

/// One layer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    /// Name of the part that holds it.
    pub(crate) part: String,
    /// Its bytes as they lie there, if the image says how many.
    pub(crate) size: Option<u64>,
    /// SHA-256 of its uncompressed bytes, in hex.
    pub(crate) diff_id: String,
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    config: Option<Execution>,
    rootfs: Rootfs,
}

#[derive(Deserialize)]
struct Execution {
    #[serde(rename = "Env")]
    env: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Rootfs {
    diff_ids: Vec<String>,
}

#[derive(Deserialize)]
struct DockerImage {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

/// Whether these are the parts of an OCI layout.
pub(crate) fn is_oci(blobs: &Blobs) -> bool {
    blobs.has("oci-layout") && blobs.has("index.json")
}

/// Whether these are the parts of a docker-archive.
pub(crate) fn is_docker(blobs: &Blobs) -> bool {
    let document = blobs.document("manifest.json");
    let Ok(Some(document)) = document else { return false };
    serde_json::from_slice::<Vec<DockerImage>>(&document)
        .is_ok_and(|images| images.iter().any(|image| blobs.has(&image.config)))
}

/// Finds the image in an OCI layout; `tag` says which, if there are several.
pub(crate) fn oci(blobs: &Blobs, tag: Option<&str>, limits: &Limits) -> Result<Image> {
    let mut document = required(blobs, "index.json")?;
    for nesting in 0.. {
        let index: Index = parse(blobs, "index.json", &document)?;
        let chosen = choose(blobs, &index, tag.filter(|_| nesting == 0))?;
        let bytes = blob(blobs, chosen)?;
        let is_index = chosen.media_type.contains("index") || chosen.media_type.contains("manifest.list");
        if !is_index {
            let manifest: Manifest = parse(blobs, &chosen.digest, &bytes)?;
            return image(blobs, &manifest, limits);
        }
        if nesting >= MAX_NESTING {
            break;
        }
        document = bytes;
    }
    Err(Error::bad_import(blobs.path(), "its lists of images lie in each other too deep"))
}

/// Finds the image in a docker-archive; `tag` says which, if there are several.
pub(crate) fn docker(blobs: &Blobs, tag: Option<&str>, limits: &Limits) -> Result<Image> {
    let images: Vec<DockerImage> = parse(blobs, "manifest.json", &required(blobs, "manifest.json")?)?;
    let tags = |image: &DockerImage| image.tags.clone().unwrap_or_default();
    let fits = |image: &&DockerImage| tag.is_none_or(|tag| tags(image).iter().any(|known| names(known, tag)));
    let fitting: Vec<_> = images.iter().filter(fits).collect();
    let [chosen] = fitting[..] else {
        let known: Vec<_> = images.iter().flat_map(tags).collect();
        return Err(not_one(blobs, fitting.len(), &known));
    };
    let config = required(blobs, &chosen.config)?;
    // The file is named by its digest; other names say nothing that could be checked.
    let stem = chosen.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
    if stem.len() == 64 && stem.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        check_digest(blobs, &format!("sha256:{stem}"), &config)?;
    }
    let parts = chosen.layers.iter().map(|part| (part.clone(), None)).collect();
    assemble(blobs, &config, parts, limits)
}

fn image(blobs: &Blobs, manifest: &Manifest, limits: &Limits) -> Result<Image> {
    let config = blob(blobs, &manifest.config)?;
    let mut parts = Vec::new();
    for layer in &manifest.layers {
        let plain = layer.media_type.split('+').next().unwrap_or_default();
        let known = plain.ends_with(".tar") || layer.media_type.ends_with(".tar.gzip") || layer.media_type.is_empty();
        if !known || layer.media_type.ends_with("+encrypted") {
            let shown: String = layer.media_type.chars().take(100).collect();
            return Err(Error::bad_import(
                blobs.path(),
                format!("one of its layers is of the type {shown:?}, not a tar archive"),
            ));
        }
        parts.push((part_name(blobs, &layer.digest)?, Some(layer.size)));
    }
    let image = assemble(blobs, &config, parts, limits)?;
    Ok(Image { annotations: manifest.annotations.clone(), ..image })
}

fn assemble(blobs: &Blobs, config: &[u8], parts: Vec<(String, Option<u64>)>, limits: &Limits) -> Result<Image> {
    let config: Config = parse(blobs, "the image's settings", config)?;
    let bad = |reason: String| Error::bad_import(blobs.path(), reason);
    let machine = architecture();
    if config.os != "linux" && !config.os.is_empty() {
        return Err(bad(format!("the image is for {:?}, not for linux", config.os)));
    }
    if config.architecture != machine && !config.architecture.is_empty() {
        return Err(bad(format!("the image is for {:?}, this machine is {machine:?}", config.architecture)));
    }
    if parts.len() > limits.max_layers {
        return Err(bad(format!("the image has more than {} layers", limits.max_layers)));
    }
    if parts.len() != config.rootfs.diff_ids.len() || parts.is_empty() {
        let (layers, digests) = (parts.len(), config.rootfs.diff_ids.len());
        return Err(bad(format!("the image has {layers} layers and {digests} digests of layers")));
    }
    let mut layers = Vec::new();
    for ((part, size), diff_id) in parts.into_iter().zip(&config.rootfs.diff_ids) {
        layers.push(Layer { part, size, diff_id: hex_of(blobs, diff_id)?.to_owned() });
    }
    let variables = config.config.and_then(|execution| execution.env).unwrap_or_default();
    let env = variables
        .iter()
        .filter_map(|variable| variable.split_once('='))
        .filter(|(name, value)| !name.is_empty() && !name.contains('\0') && !value.contains('\0'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Ok(Image { layers, env, annotations: BTreeMap::new() })
}

/// The one that is meant: by its tag, else by this machine's architecture, else the only one.
fn choose<'a>(blobs: &Blobs, index: &'a Index, tag: Option<&str>) -> Result<&'a Descriptor> {
    let tag_of = |one: &Descriptor| one.annotations.get("org.opencontainers.image.ref.name").cloned();
    // Attestations lie beside the images that they are about.
    let real = |one: &&Descriptor| {
        !one.annotations.contains_key("vnd.docker.reference.type")
            && one.platform.as_ref().is_none_or(|platform| platform.os != "unknown")
    };
    let mut fitting: Vec<_> = index.manifests.iter().filter(real).collect();
    if let Some(tag) = tag {
        fitting.retain(|one| tag_of(one).is_some_and(|known| names(&known, tag)));
    }
    if fitting.len() > 1 {
        let here = |one: &&Descriptor| {
            one.platform.as_ref().is_none_or(|on| on.architecture == architecture() && on.os == "linux")
        };
        fitting.retain(here);
    }
    fitting.dedup_by_key(|one| &one.digest);
    match fitting[..] {
        [one] => Ok(one),
        _ => {
            let known: Vec<_> = index.manifests.iter().filter_map(tag_of).collect();
            Err(not_one(blobs, fitting.len(), &known))
        }
    }
}

fn not_one(blobs: &Blobs, found: usize, known: &[String]) -> Error {
    let known =
        if known.is_empty() { "none has a tag".to_owned() } else { format!("the tags are {}", known.join(", ")) };
    let reason = match found {
        0 => format!("it has no such image for this machine; {known}"),
        _ => format!("it has {found} images, say which by its tag; {known}"),
    };
    Error::bad_import(blobs.path(), reason)
}

/// Whether a full tag (`registry/name:tag`) is meant by what was asked for.
fn names(known: &str, asked: &str) -> bool {
    known == asked || known.strip_suffix(asked).is_some_and(|before| before.ends_with(['/', ':']))
}

/// A part that is named by its digest, checked.
fn blob(blobs: &Blobs, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let bytes = required(blobs, &part_name(blobs, &descriptor.digest)?)?;
    if bytes.len() as u64 != descriptor.size {
        let (is, should) = (bytes.len(), descriptor.size);
        return Err(Error::bad_import(
            blobs.path(),
            format!("{} has {is} bytes instead of {should}", descriptor.digest),
        ));
    }
    check_digest(blobs, &descriptor.digest, &bytes)?;
    Ok(bytes)
}

fn check_digest(blobs: &Blobs, digest: &str, bytes: &[u8]) -> Result<()> {
    if hex::encode(Sha256::digest(bytes)) == hex_of(blobs, digest)? {
        return Ok(());
    }
    Err(Error::bad_import(blobs.path(), format!("{digest} does not have this digest: it is damaged")))
}

fn part_name(blobs: &Blobs, digest: &str) -> Result<String> {
    Ok(format!("blobs/sha256/{}", hex_of(blobs, digest)?))
}

/// The hex digits of a SHA-256.
fn hex_of<'a>(blobs: &Blobs, digest: &'a str) -> Result<&'a str> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    digest.strip_prefix("sha256:").filter(|hex| hex.len() == 64 && hex.bytes().all(lower)).ok_or_else(|| {
        let shown: String = digest.chars().take(100).collect();
        Error::bad_import(blobs.path(), format!("{shown:?} in it is not a digest of the form sha256:<64 hex digits>"))
    })
}

fn required(blobs: &Blobs, name: &str) -> Result<Vec<u8>> {
    blobs.document(name)?.ok_or_else(|| {
        let shown: String = name.chars().take(100).collect();
        Error::bad_import(blobs.path(), format!("{shown:?} is missing in it"))
    })
}

fn parse<T: DeserializeOwned>(blobs: &Blobs, what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::bad_import(blobs.path(), format!("{what} in it does not read: {error}")))
}

/// This machine's architecture as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
