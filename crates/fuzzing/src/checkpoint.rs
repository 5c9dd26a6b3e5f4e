//! Archives of checkpoints whose digests fit, so that what is behind them is reached.

use forkpoint_portable::Import;
use forkpoint_templates::Limits;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{fs, io::Write as _};

/// The annotations of a manifest (their length as two bytes, then a JSON object) and, after them, a layer. Nothing may
/// appear outside of the directory that it is unpacked into.
pub fn checkpoint(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let Some((annotations, layer)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length))) else { return };
    let Ok(annotations @ Value::Object(_)) = serde_json::from_slice(annotations) else { return };
    let Ok(folder) = tempfile::tempdir() else { return };
    let (path, upper) = (folder.path().join("archive"), folder.path().join("upper"));
    let written = fs::File::create(&path).and_then(|mut file| file.write_all(&archive(annotations, layer)));
    if written.is_err() || fs::create_dir(&upper).is_err() {
        return;
    }
    let limits = Limits { max_entries: 2000, max_bytes: 16 << 20, max_ratio: 200, max_layers: 16, max_names: 16 << 20 };
    let goes_on = || false;
    if let Ok(file) = fs::File::open(&path)
        && let Ok(import) = Import::open(file, &limits, &goes_on)
    {
        // The hash that the annotations say is hardly ever that of a changed layer.
        let _ = import.changes(&upper, &limits, &goes_on);
    }
    let beside = fs::read_dir(folder.path()).map_or(0, Iterator::count);
    assert_eq!(beside, 2, "something was unpacked beside its directory");
}

fn archive(annotations: Value, layer: &[u8]) -> Vec<u8> {
    let mut members = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
    let mut blob = |media_type: &str, content: &[u8]| {
        let digest = hex::encode(Sha256::digest(content));
        members.push((format!("blobs/sha256/{digest}"), content.to_vec()));
        json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len() })
    };
    let layer = blob("application/vnd.oci.image.layer.v1.tar", layer);
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": { "Env": ["A=b"] },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "config": config, "layers": [layer], "annotations": annotations,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
    });
    let manifest = blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    members.push(("index.json".to_owned(), index.to_string().into_bytes()));
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // A vector takes all there is.
        let _ = tar.append_data(&mut header, name, &content[..]);
    }
    tar.into_inner().unwrap_or_default()
}
