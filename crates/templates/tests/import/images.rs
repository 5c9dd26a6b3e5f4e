//! Images of several layers, in each form in which they come, whole and spoiled.

use std::fs;
use std::path::{Path, PathBuf};

use forkpoint_templates::{Error, Publication};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::archive::{Archive, gzip, zstd};
use crate::place::{Place, listing};

fn hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Three layers: a base, one that hides and replaces, one that adds. The last has no end mark, as some programs
/// write layers.
fn layers() -> Vec<Vec<u8>> {
    let base = Archive::root()
        .dir("old")
        .dir("old/deep")
        .file("old/deep/a", "1")
        .file("old/b", "1")
        .dir("opaque")
        .dir("opaque/sub")
        .file("opaque/sub/a", "1")
        .file("opaque/b", "1")
        .file("gone", "1")
        .file("replaced", "1")
        .symlink("link", "etc")
        .dir("dir-to-file")
        .file("dir-to-file/x", "1")
        .file("linked", "1");
    let second = Archive::default()
        .file(".wh.gone", "")
        .file("old/.wh.deep", "")
        .file("replaced", "2")
        // The mark comes after what the same layer has beside it: that stays.
        .dir("opaque")
        .dir("opaque/sub")
        .file("opaque/sub/c", "2")
        .file("opaque/.wh..wh..opq", "")
        .file("dir-to-file", "2")
        .dir("link")
        .file("link/real", "2")
        .file(".wh..wh.plnk", "")
        .file(".wh.never-was", "")
        .hard_link("hard", "linked");
    let third = Archive::default().file("added", "3").file(".wh.old", "").dir("old").file("old/new", "3");
    vec![base.end(), second.end(), third.0]
}

pub(crate) fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", hex(layer))).collect();
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    json!({
        "architecture": arch, "os": "linux", "rootfs": { "type": "layers", "diff_ids": ids },
        "config": { "Env": ["PATH=/opt/bin:/usr/bin", "MODE=a=b", "broken"], "User": "nobody" },
    })
    .to_string()
    .into_bytes()
}

/// Writes an OCI layout; `spoil` may change its index, and the directory afterwards.
fn oci(place: &Place, name: &str, compress: fn(&[u8]) -> Vec<u8>, media: &str) -> PathBuf {
    let layers = layers();
    let mut put = Vec::new();
    let mut descriptor = |media: &str, bytes: Vec<u8>| {
        let digest = hex(&bytes);
        let described = json!({ "mediaType": media, "digest": format!("sha256:{digest}"), "size": bytes.len() });
        put.push((format!("blobs/sha256/{digest}"), bytes));
        described
    };
    let config = descriptor("application/vnd.oci.image.config.v1+json", config(&layers));
    let layers: Vec<_> = layers.iter().map(|layer| descriptor(media, compress(layer))).collect();
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers }).to_string().into_bytes();
    let mut one = descriptor("application/vnd.oci.image.manifest.v1+json", manifest.clone());
    one["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    let index = json!({ "schemaVersion": 2, "manifests": [one] });
    put.push(("index.json".into(), index.to_string().into_bytes()));
    put.push(("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
    for (part, bytes) in put {
        place.write(&format!("{name}/{part}"), &bytes);
    }
    place.path(name)
}

fn docker(link: bool) -> Vec<u8> {
    let layers = layers();
    let config = config(&layers);
    let mut archive = Archive::default();
    let mut names = Vec::new();
    for (n, layer) in layers.iter().enumerate() {
        archive = archive.raw(tar::EntryType::Regular, format!("{n}/layer.tar").as_bytes(), layer, |_| {});
        names.push(format!("{n}/layer.tar"));
    }
    if link {
        archive = archive.symlink("linked/layer.tar", "../0/layer.tar");
        names[0] = "linked/layer.tar".into();
    }
    let name = format!("{}.json", hex(&config));
    let images = json!([{ "Config": name, "RepoTags": ["example.invalid/team/tool:1.0"], "Layers": names }]);
    archive
        .raw(tar::EntryType::Regular, name.as_bytes(), &config, |_| {})
        .file("manifest.json", &images.to_string())
        .end()
}

fn packed(directory: &Path, place: &Place) -> PathBuf {
    let path = place.path("packed.tar");
    let status = std::process::Command::new("tar").arg("-cf").arg(&path).arg("-C").arg(directory).arg(".").status();
    assert!(status.unwrap().success());
    path
}

#[test]
fn layers_hide_replace_and_add_in_every_form_of_image() {
    let place = Place::new();
    let plain = oci(&place, "plain", <[u8]>::to_vec, "application/vnd.oci.image.layer.v1.tar");
    let zipped = oci(&place, "gz", gzip, "application/vnd.oci.image.layer.v1.tar+gzip");
    let modern = oci(&place, "zst", zstd, "application/vnd.oci.image.layer.v1.tar+zstd");
    let oci_archive = packed(&modern, &place);
    let sources = [
        ("plain", plain),
        ("zipped", zipped),
        ("modern", modern),
        ("packed", oci_archive),
        ("docker", place.write("docker.tar", &docker(false))),
        ("docker-linked", place.write("docker-linked.tar", &docker(true))),
        ("docker-zipped", place.write("docker.tar.gz", &gzip(&docker(false)))),
    ];
    let mut digests = Vec::new();
    for (name, source) in &sources {
        let template = place.import(name, source).unwrap_or_else(|error| panic!("{name}: {error}"));
        let found = listing(&template.root);
        for (path, expected) in [
            ("replaced", "644 0:0 \"2\""),
            ("added", "644 0:0 \"3\""),
            ("old/new", "644 0:0 \"3\""),
            ("opaque/sub/c", "644 0:0 \"2\""),
            ("dir-to-file", "644 0:0 \"2\""),
            ("link", "755 0:0 dir"),
            ("link/real", "644 0:0 \"2\""),
            ("hard", "644 0:0 \"1\""),
        ] {
            assert_eq!(found.get(path).map(String::as_str), Some(expected), "{name}: {path}");
        }
        for path in ["gone", "old/deep", "old/b", "opaque/b", "opaque/sub/a", "etc/real"] {
            assert!(!found.contains_key(path), "{name}: {path} is still there");
        }
        assert!(!found.keys().any(|path| path.contains(".wh.")), "{name}: {found:?}");
        let env = &template.manifest.details.env;
        assert_eq!((env["PATH"].as_str(), env["MODE"].as_str(), env.len()), ("/opt/bin:/usr/bin", "a=b", 2));
        digests.push(template.digest);
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "{digests:?}");
}

/// What is wrong, how it comes about, what is said of it.
type Spoiled<'a> = (&'a str, Box<dyn Fn(&Path) + 'a>, &'a str);

#[test]
fn spoiled_images_are_refused_whole() {
    let place = Place::new();
    let media = "application/vnd.oci.image.layer.v1.tar";
    let fresh = || {
        let _ = fs::remove_dir_all(place.path("image"));
        oci(&place, "image", <[u8]>::to_vec, media)
    };
    let index = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path.join("index.json")).unwrap()).unwrap() };
    let set = |path: &Path, index: &Value| fs::write(path.join("index.json"), index.to_string()).unwrap();
    let part = |path: &Path, digest: &Value| {
        path.join("blobs/sha256").join(digest.as_str().unwrap().trim_start_matches("sha256:"))
    };
    let largest = |path: &Path| {
        let parts = fs::read_dir(path.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
        parts.max_by_key(|part| fs::metadata(part).unwrap().len()).unwrap()
    };
    let spoil: Vec<Spoiled<'_>> = vec![
        (
            "a digest that leads out",
            Box::new(|path| {
                let mut spoiled = index(path);
                spoiled["manifests"][0]["digest"] = json!("sha256:../../../canary/file");
                set(path, &spoiled);
            }),
            "not a digest",
        ),
        (
            "a manifest of another digest",
            Box::new(|path| {
                let manifest = part(path, &index(path)["manifests"][0]["digest"]);
                let text = fs::read_to_string(&manifest).unwrap().replacen("2", "3", 1);
                fs::write(&manifest, text).unwrap();
            }),
            "damaged",
        ),
        (
            "a manifest of another size",
            Box::new(|path| {
                let mut spoiled = index(path);
                spoiled["manifests"][0]["size"] = json!(5);
                set(path, &spoiled);
            }),
            "bytes instead of 5",
        ),
        (
            "a layer that was changed",
            Box::new(|path| {
                let layer = largest(path);
                let mut bytes = fs::read(&layer).unwrap();
                // Within a file's content, so that only the digest tells.
                let at = bytes.windows(6).position(|window| window == b"hello\n").unwrap();
                bytes[at] = b'j';
                fs::write(&layer, bytes).unwrap();
            }),
            "does not have the digest",
        ),
        ("a layer that is missing", Box::new(|path| fs::remove_file(largest(path)).unwrap()), "is missing"),
        (
            "a layer that is a link to the outside",
            Box::new(|path| {
                let layer = largest(path);
                fs::remove_file(&layer).unwrap();
                std::os::unix::fs::symlink("/etc/passwd", &layer).unwrap();
            }),
            "is a link",
        ),
        (
            "a layer that is cut",
            Box::new(|path| {
                let layer = largest(path);
                let file = fs::File::options().write(true).open(&layer).unwrap();
                file.set_len(1024).unwrap();
            }),
            "not of the size",
        ),
        (
            "another machine's image",
            Box::new(|path| {
                let mut spoiled = index(path);
                spoiled["manifests"][0]["platform"] = json!({ "architecture": "s390x", "os": "linux" });
                let one = spoiled["manifests"][0].clone();
                spoiled["manifests"].as_array_mut().unwrap().push(one);
                set(path, &spoiled);
            }),
            "no such image for this machine",
        ),
        (
            "an index that is no JSON",
            Box::new(|path| fs::write(path.join("index.json"), "{").unwrap()),
            "does not read",
        ),
        ("an index without images", Box::new(|path| set(path, &json!({ "manifests": [] }))), "no such image"),
        (
            "an endless index",
            Box::new(|path| {
                fs::File::create(path.join("index.json")).unwrap().set_len(1 << 40).unwrap();
            }),
            "more than",
        ),
    ];
    for (what, spoil, expected) in spoil {
        let path = fresh();
        spoil(&path);
        let message = place.refuses(what, &path);
        assert!(message.contains(expected), "{what}: {message}");
    }
    let unknown = Publication { name: "bad".into(), tag: Some("v9".into()), ..Publication::default() };
    let message = place.refuses_with("an unknown tag", &unknown, &fresh());
    assert!(message.contains("the tags are latest"), "{message}");
}

#[test]
fn whiteouts_that_name_no_file_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "etc/.wh..."] {
        let place = Place::new();
        let layer = Archive::root().file(name, "").end();
        let layers = [layer.clone()];
        let config = config(&layers);
        let images = json!([{ "Config": "config.json", "Layers": ["layer.tar"] }]).to_string();
        let archive = Archive::default()
            .raw(tar::EntryType::Regular, b"layer.tar", &layer, |_| {})
            .raw(tar::EntryType::Regular, b"config.json", &config, |_| {})
            .file("manifest.json", &images);
        let message = place.refuses(name, &place.write("image.tar", &archive.end()));
        assert!(message.contains("whiteout of no name"), "{name}: {message}");
    }
}

#[test]
fn a_tag_says_which_of_several_images() {
    let place = Place::new();
    let archive = place.write("docker.tar", &docker(false));
    let with = |tag: &str| Publication { name: "x".into(), tag: Some(tag.into()), ..Publication::default() };
    for tag in ["example.invalid/team/tool:1.0", "tool:1.0", "1.0"] {
        place.import_with(&with(tag), &archive).unwrap();
    }
    let error = place.import_with(&with("2.0"), &archive).unwrap_err();
    assert!(matches!(&error, Error::BadImport { reason, .. } if reason.contains("tool:1.0")), "{error}");
}
