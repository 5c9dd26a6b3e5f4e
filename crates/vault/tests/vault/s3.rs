//! S3 over real HTTP, on an S3 server of this machine; the suite that runs on it is `suite.rs`.

use bytes::Bytes;
use forkpoint_torture::moto::Moto;
use forkpoint_vault::{
    StoreError,
    store::{Keep, RemoteStore, Store},
};
use object_store::{ClientOptions, aws::AmazonS3Builder};
use std::{path::Path, sync::Arc};

const BUCKET: &str = "checkpoints";

pub fn start() -> Moto {
    Moto::start(Path::new(env!("CARGO_TARGET_TMPDIR")), BUCKET).unwrap()
}

/// Objects below a prefix.
pub fn store(moto: &Moto, prefix: &str) -> Arc<dyn Store> {
    let s3 = AmazonS3Builder::new()
        .with_endpoint(&moto.url)
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name(BUCKET)
        .with_access_key_id("key")
        .with_secret_access_key("secret")
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .build()
        .unwrap();
    Arc::new(RemoteStore::new(Arc::new(s3), prefix).unwrap())
}

#[test]
fn objects_are_written_read_listed_and_removed() {
    let moto = start();
    let plain = store(&moto, "some/prefix");
    plain.put("orgs/x/y", Bytes::from_static(b"12345"), Keep::Always).unwrap();
    assert_eq!(&plain.get("orgs/x/y", Some(1..3)).unwrap()[..], b"23");
    assert!(!plain.put_new("orgs/x/y", Bytes::from_static(b"other")).unwrap());
    assert_eq!(&plain.get("orgs/x/y", None).unwrap()[..], b"12345");
    store(&moto, "other").put("orgs/x/z", Bytes::from_static(b"1"), Keep::Always).unwrap();
    let mut listed = Vec::new();
    plain.list("orgs/", &mut |info| listed.push((info.key, info.size))).unwrap();
    assert_eq!(listed, [("orgs/x/y".to_owned(), 5)]);
    plain.delete("orgs/x/y").unwrap();
    plain.delete("orgs/x/y").unwrap();
    assert!(matches!(plain.get("orgs/x/y", None), Err(StoreError::Missing { .. })));
}
