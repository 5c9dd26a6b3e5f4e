//! Which store an address names.

use super::{LocalStore, RemoteStore, Store, StoreError};
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig, aws::AmazonS3Builder, azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder,
};
use std::{path::Path, sync::Arc, time::Duration};
use url::Url;

/// Opens the store at `address`: an absolute path or `file:///path`, `s3://bucket/prefix`, `gs://bucket/prefix`,
/// `az://container/prefix`, or a cloud's own https address. Credentials, region and endpoint come from the
/// environment under the names that each cloud's tools use (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …).
pub fn open(address: &str) -> Result<Arc<dyn Store>, StoreError> {
    let refused = |problem: String| StoreError::Refused { action: "open", key: address.into(), problem };
    if Path::new(address).is_absolute() {
        return Ok(Arc::new(LocalStore::open(address)?));
    }
    let url = Url::parse(address).map_err(|e| {
        refused(format!("{e}; an address is an absolute path, file:///path, s3://bucket/prefix, gs://… or az://…"))
    })?;
    if url.scheme() == "file" {
        let path = url.to_file_path().map_err(|()| refused("does not name a directory of this machine".into()))?;
        return Ok(Arc::new(LocalStore::open(path)?));
    }
    let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|e| refused(e.to_string()))?;
    // Retries are the vault's own, the same over every store; these two cover a connection reset under way.
    let retry = RetryConfig { max_retries: 2, retry_timeout: Duration::from_secs(30), ..RetryConfig::default() };
    let endpoint = |name: &str| std::env::var(name).is_ok_and(|address| address.starts_with("http://"));
    let client = |plain: bool| {
        ClientOptions::new()
            .with_connect_timeout(Duration::from_secs(10))
            .with_timeout(super::remote::REQUEST_TIMEOUT)
            .with_allow_http(plain)
    };
    let store: Result<Arc<dyn ObjectStore>, object_store::Error> = match scheme {
        ObjectStoreScheme::AmazonS3 => AmazonS3Builder::from_env()
            .with_url(address)
            .with_retry(retry)
            .with_client_options(client(endpoint("AWS_ENDPOINT_URL") || endpoint("AWS_ENDPOINT")))
            .build()
            .map(|store| Arc::new(store) as _),
        ObjectStoreScheme::GoogleCloudStorage => GoogleCloudStorageBuilder::from_env()
            .with_url(address)
            .with_retry(retry)
            .with_client_options(client(false))
            .build()
            .map(|store| Arc::new(store) as _),
        ObjectStoreScheme::MicrosoftAzure => MicrosoftAzureBuilder::from_env()
            .with_url(address)
            .with_retry(retry)
            .with_client_options(client(endpoint("AZURE_ENDPOINT")))
            .build()
            .map(|store| Arc::new(store) as _),
        _ => return Err(refused("is none of file, s3, gs, az".into())),
    };
    Ok(Arc::new(RemoteStore::new(store.map_err(|e| refused(e.to_string()))?, prefix.as_ref())?))
}
