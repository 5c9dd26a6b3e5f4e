//! The documents of an image, and the archive that holds them and the layers.

use std::io::{self, Write};

use forkpoint_domain::env::Environment;
use forkpoint_engine::ports::portable::Lineage;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use crate::emit::{END, Member, padding, write_padding};
use crate::{Result, annotations};

/// A layer that was looked through: SHA-256 of its bytes in hex, and how many there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) digest: String,
    pub(crate) size: u64,
}

/// What stands in an archive before its layers.
#[derive(Debug)]
pub(crate) struct Documents(Vec<(String, Vec<u8>)>);

impl Documents {
    /// Describes an image of these layers, lowest first.
    pub(crate) fn new(lineage: &Lineage, env: Option<&Environment>, layers: &[Layer]) -> Result<Self> {
        let created = lineage.created_at.to_string();
        let mut execution = serde_json::Map::new();
        if let Some(env) = env {
            let variables: Vec<_> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
            execution.insert("Env".into(), json!(variables));
        }
        let steps = [format!("template {}", lineage.template), format!("checkpoint {}", lineage.checkpoint)];
        let history: Vec<_> = steps[steps.len() - layers.len()..]
            .iter()
            .map(|step| json!({ "created": created, "created_by": format!("forkpoint: {step}") }))
            .collect();
        let diff_ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", layer.digest)).collect();
        let config = json!({
            "created": created,
            "architecture": architecture(),
            "os": "linux",
            "config": execution,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": history,
        });
        let config = config.to_string().into_bytes();
        let described: Vec<_> = layers
            .iter()
            .map(|layer| {
                json!({
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": format!("sha256:{}", layer.digest),
                    "size": layer.size,
                })
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": format!("sha256:{}", hash(&config)),
                "size": config.len(),
            },
            "layers": described,
            "annotations": annotations::write(lineage, layers.len() - 1)?,
        });
        let manifest = manifest.to_string().into_bytes();
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": format!("sha256:{}", hash(&manifest)),
                "size": manifest.len(),
                "platform": { "architecture": architecture(), "os": "linux" },
                "annotations": { "org.opencontainers.image.ref.name": lineage.checkpoint.to_string() },
            }],
        });
        Ok(Self(vec![
            ("oci-layout".into(), json!({ "imageLayoutVersion": "1.0.0" }).to_string().into_bytes()),
            ("index.json".into(), index.to_string().into_bytes()),
            (blob(&hash(&manifest)), manifest),
            (blob(&hash(&config)), config),
        ]))
    }

    /// Bytes of the whole archive.
    pub(crate) fn archive_size(&self, layers: &[Layer]) -> u64 {
        let documents = self.0.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64));
        let layers = layers.iter().map(|layer| (blob(&layer.digest), layer.size));
        let directories = DIRECTORIES.iter().map(|path| directory(path).header().len() as u64).sum::<u64>();
        let members = documents.chain(layers).map(|(name, size)| {
            let header = Member::plain(name.as_bytes(), EntryType::Regular, size).header();
            header.len() as u64 + size + padding(size) as u64
        });
        directories + members.sum::<u64>() + END.len() as u64
    }

    /// Writes everything that comes before the layers.
    pub(crate) fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        for (number, (name, bytes)) in self.0.iter().enumerate() {
            if number == 2 {
                for path in DIRECTORIES {
                    to.write_all(&directory(path).header())?;
                }
            }
            to.write_all(&Member::plain(name.as_bytes(), EntryType::Regular, bytes.len() as u64).header())?;
            to.write_all(bytes)?;
            write_padding(to, bytes.len() as u64)?;
        }
        Ok(())
    }
}

/// The header of a layer in the archive.
pub(crate) fn layer_header(layer: &Layer) -> Vec<u8> {
    Member::plain(blob(&layer.digest).as_bytes(), EntryType::Regular, layer.size).header()
}

const DIRECTORIES: [&[u8]; 2] = [b"blobs/", b"blobs/sha256/"];

fn directory(path: &[u8]) -> Member<'_> {
    Member::plain(path, EntryType::Directory, 0)
}

fn blob(digest: &str) -> String {
    format!("blobs/sha256/{digest}")
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// This machine's architecture as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
