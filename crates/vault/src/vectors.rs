//! The test vectors of `docs/vault-format.md`: they are in that text, and they hold.

use crate::{
    MasterKey,
    crypto::{MasterSeal, OrgKeys},
    object_keys::PackId,
    pack::{self, FOOTER, Stream},
    tree::{
        Body, Content, Entry, Leaf, LeafKind, Meta, Node, NodeRef, Piece, Segment, codec,
        content::{BLOCK, Digest},
        hash::node_hash,
    },
};

const DOCUMENT: &str = include_str!("../../../docs/vault-format.md");

/// The value of a vector in the document: what stands between the backquotes after its name.
fn vector(name: &str) -> &'static str {
    let line = DOCUMENT.lines().find_map(|line| line.strip_prefix(&format!("- {name}: `")));
    line.and_then(|rest| rest.strip_suffix('`')).unwrap_or_else(|| panic!("the document has no vector {name:?}"))
}

fn bytes(name: &str) -> Vec<u8> {
    hex::decode(vector(name)).unwrap()
}

fn keys() -> OrgKeys {
    let mut secret = [0; 32];
    (0..).zip(&mut secret).for_each(|(n, byte)| *byte = n);
    OrgKeys::new(&secret)
}

fn tree() -> Node {
    let meta = |mode| Meta { mode, uid: 1000, gid: 100, mtime: (1_700_000_000, 5), xattrs: Vec::new() };
    let keys = keys();
    let piece = Piece { id: keys.name(b"hello"), len: 5 };
    let content = Content {
        size: 5,
        digest: *blake3::hash(b"hello").as_bytes(),
        segments: vec![Segment { offset: 0, pieces: vec![piece] }],
    };
    let leaf = |mode, kind| Body::Leaf(Leaf { meta: meta(mode), link: None, kind });
    let empty = Node { meta: meta(0o700), entries: Vec::new() };
    let encoded = codec::encode(&empty);
    let below = NodeRef {
        hash: node_hash(&empty).0,
        pieces: vec![Piece { id: keys.name(&encoded), len: encoded.len() as u32 }],
    };
    let mut top = meta(0o755);
    top.xattrs.push((b"trusted.overlay.opaque".to_vec(), b"y".to_vec()));
    let entry = |name: &str, body| Entry { name: name.into(), body };
    Node {
        meta: top,
        entries: vec![
            entry("below", Body::Directory(below)),
            entry("file", leaf(0o644, LeafKind::File(content))),
            entry("gone", leaf(0, LeafKind::Whiteout)),
            entry("link", leaf(0o777, LeafKind::Symlink(b"file".to_vec()))),
        ],
    }
}

#[test]
fn chunks_are_named_and_sealed_as_documented() {
    let keys = keys();
    let id = keys.name(b"hello");
    assert_eq!(id.to_string(), vector("name of `hello`"));
    let sealed = bytes("sealed `hello`");
    assert_eq!(keys.open_chunk(&id, 5, &mut sealed.clone()).unwrap(), b"hello");
    let long = b"hello ".repeat(100);
    assert_eq!(keys.open_chunk(&keys.name(&long), 600, &mut bytes("sealed `hello ` 100 times")).unwrap(), long);
}

#[test]
fn digests_are_as_documented() {
    let digest = |size, offset, data: &[u8]| {
        let mut digest = Digest::new(size);
        if !data.is_empty() {
            digest.begin(offset);
            digest.update(data);
        }
        hex::encode(digest.finish())
    };
    assert_eq!(digest(5, 0, b"hello"), vector("digest of `hello`"));
    assert_eq!(digest(0, 0, b""), vector("digest of nothing"));
    assert_eq!(digest(1 << 20, 0, b""), vector("digest of 1 MiB of zeros"));
    let mut block = vec![0; BLOCK];
    block[0] = b'x';
    assert_eq!(digest(1 << 20, BLOCK as u64, &block), vector("digest of 1 MiB of zeros but an x at 65536"));
}

#[test]
fn directories_are_encoded_and_hashed_as_documented() {
    let tree = tree();
    assert_eq!(hex::encode(codec::encode(&tree)), vector("stored directory"));
    assert_eq!(node_hash(&tree).to_string(), vector("its hash"));
    assert_eq!(codec::decode(&bytes("stored directory")).unwrap(), tree);
    let empty = Node { meta: Meta::default(), entries: Vec::new() };
    assert_eq!(node_hash(&empty).to_string(), vector("hash of an empty directory, all numbers 0"));
}

#[test]
fn packs_are_laid_out_as_documented() {
    let keys = keys();
    let mut pack = bytes("pack");
    let size = pack.len() as u64;
    let index = pack::read_footer("pack", &pack[pack.len() - FOOTER..], size).unwrap();
    let sealed = &pack[index.start as usize..index.end as usize];
    let contents = pack::open_index(&keys, "pack", PackId([7; 16]), sealed, index.start).unwrap();
    assert_eq!((contents.stream, contents.stretches.len()), (Stream::Data, 2));
    let bundle = &contents.stretches[1];
    assert_eq!(bundle.parts.as_ref().unwrap()[1], (keys.name(b"bb"), 2));
    for (stretch, clear) in contents.stretches.iter().zip([&b"hello"[..], b"abb"]) {
        let at = stretch.offset as usize..(stretch.offset + stretch.stored) as usize;
        assert_eq!(keys.open_chunk(&stretch.id, stretch.len as usize, &mut pack[at]).unwrap(), clear);
    }
}

#[test]
fn organisation_keys_are_wrapped_as_documented() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, [0x42; 32]).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let seal = MasterSeal::new(&MasterKey::open(&path).unwrap());
    let context = [b"organisation key ".as_slice(), &[9; 16], b"org_00000000-0000-0000-0000-000000000001"].concat();
    let object = bytes("key object");
    let clear = seal.open(&context, object.strip_prefix(b"FPVOKEY1").unwrap()).unwrap();
    assert_eq!(**clear, (0..32).collect::<Vec<u8>>());
}
