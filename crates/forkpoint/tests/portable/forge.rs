//! Archives made by hand: a real one taken apart, changed, and put together again with digests that fit.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use tar::{EntryType, Header};

/// The parts of an archive that has one layer.
#[derive(Clone)]
pub struct Parts {
    pub layer: Vec<u8>,
    pub media_type: String,
    /// What the layer is when it is not compressed.
    pub diff_id: Option<String>,
    pub config: Value,
    pub manifest: Value,
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Parts {
    /// Takes a layout's directory apart.
    pub fn of(layout: &Path) -> Self {
        let read = |path: &str| std::fs::read(layout.join(path)).unwrap();
        let blob =
            |digest: &Value| read(&format!("blobs/sha256/{}", digest.as_str().unwrap().trim_start_matches("sha256:")));
        let index: Value = serde_json::from_slice(&read("index.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0]["digest"])).unwrap();
        let config = serde_json::from_slice(&blob(&manifest["config"]["digest"])).unwrap();
        let layer = blob(&manifest["layers"][0]["digest"]);
        let media_type = manifest["layers"][0]["mediaType"].as_str().unwrap().to_owned();
        Self { layer, media_type, diff_id: None, config, manifest }
    }

    /// The same with another layer.
    pub fn with_layer(&self, layer: Vec<u8>) -> Self {
        Self { layer, ..self.clone() }
    }

    /// The same with another annotation.
    pub fn saying(&self, name: &str, value: Value) -> Self {
        let mut parts = self.clone();
        parts.manifest["annotations"][format!("dev.forkpoint.{name}")] = value;
        parts
    }

    /// The members of the archive: names and contents.
    pub fn members(&self) -> Vec<(String, Vec<u8>)> {
        let (mut config, mut manifest) = (self.config.clone(), self.manifest.clone());
        let digest = sha256(&self.layer);
        config["rootfs"]["diff_ids"][0] = format!("sha256:{}", self.diff_id.as_ref().unwrap_or(&digest)).into();
        let config = config.to_string().into_bytes();
        manifest["config"]["digest"] = format!("sha256:{}", sha256(&config)).into();
        manifest["config"]["size"] = config.len().into();
        manifest["layers"][0] =
            json!({ "mediaType": self.media_type, "digest": format!("sha256:{digest}"), "size": self.layer.len() });
        let manifest = manifest.to_string().into_bytes();
        let index = json!({ "schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{}", sha256(&manifest)), "size": manifest.len(),
        }] });
        let blob = |bytes: &[u8]| format!("blobs/sha256/{}", sha256(bytes));
        vec![
            ("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".into(), index.to_string().into_bytes()),
            (blob(&manifest), manifest),
            (blob(&config), config),
            (blob(&self.layer), self.layer.clone()),
        ]
    }

    pub fn archive(&self) -> Vec<u8> {
        archive(&self.members())
    }
}

/// The members of a layout's directory, with another annotation of its manifest.
pub fn annotated(layout: &Path, name: &str, value: Value) -> Vec<(String, Vec<u8>)> {
    let read = |path: &str| std::fs::read(layout.join(path)).unwrap();
    let mut index: Value = serde_json::from_slice(&read("index.json")).unwrap();
    let path_of = |digest: &Value| format!("blobs/sha256/{}", digest.as_str().unwrap().trim_start_matches("sha256:"));
    let mut manifest: Value = serde_json::from_slice(&read(&path_of(&index["manifests"][0]["digest"]))).unwrap();
    let mut parts: Vec<_> =
        manifest["layers"].as_array().unwrap().iter().map(|layer| path_of(&layer["digest"])).collect();
    parts.push(path_of(&manifest["config"]["digest"]));
    manifest["annotations"][format!("dev.forkpoint.{name}")] = value;
    let bytes = manifest.to_string().into_bytes();
    index["manifests"][0]["digest"] = format!("sha256:{}", sha256(&bytes)).into();
    index["manifests"][0]["size"] = bytes.len().into();
    let mut members = vec![
        ("oci-layout".to_owned(), read("oci-layout")),
        ("index.json".to_owned(), index.to_string().into_bytes()),
        (format!("blobs/sha256/{}", sha256(&bytes)), bytes),
    ];
    members.extend(parts.into_iter().map(|path| (path.clone(), read(&path))));
    members
}

/// A tar archive of these files.
pub fn archive(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = Tar::default();
    for (name, bytes) in members {
        tar = tar.file(name, bytes);
    }
    tar.end()
}

/// A tar archive in the making. Nothing is checked.
#[derive(Default, Clone)]
pub struct Tar(Vec<u8>);

impl Tar {
    /// A layer that begins as all do: with its root.
    pub fn layer() -> Self {
        Self::default().member("./", EntryType::Directory, "", b"", &[])
    }

    pub fn file(self, path: &str, bytes: &[u8]) -> Self {
        self.member(path, EntryType::Regular, "", bytes, &[])
    }

    pub fn member(self, path: &str, kind: EntryType, link: &str, bytes: &[u8], records: &[(&str, &[u8])]) -> Self {
        self.owned_member(path, kind, link, bytes, records, 0)
    }

    pub fn owned_member(
        mut self,
        path: &str,
        kind: EntryType,
        link: &str,
        bytes: &[u8],
        records: &[(&str, &[u8])],
        uid: u64,
    ) -> Self {
        if !records.is_empty() {
            let mut text = Vec::new();
            for (key, value) in records {
                let rest = key.len() + value.len() + 3;
                let length = (rest..).find(|length| *length == rest + length.to_string().len()).unwrap();
                text.extend([format!("{length} {key}=").as_bytes(), value, b"\n"].concat());
            }
            self = self.raw("pax", EntryType::XHeader, "", &text, 0);
        }
        self.raw(path, kind, link, bytes, uid)
    }

    fn raw(mut self, path: &str, kind: EntryType, link: &str, bytes: &[u8], uid: u64) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(uid);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}
