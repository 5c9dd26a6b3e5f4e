//! The same vault over real HTTP, on an S3 server of this machine.

use crate::support::{Home, described, job, many_files, noise, one_of_everything, org, restore, snapshot};
use forkpoint_vault::{
    CollectOptions, Progress, Vault, VaultOptions,
    store::{Keep, RemoteStore, Store},
};
use object_store::{ClientOptions, aws::AmazonS3Builder};
use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

/// A moto server that ends with the test.
struct Moto {
    child: Child,
    port: u16,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Installs moto into a virtual environment that is kept in the build directory; says why not.
fn installed() -> Result<PathBuf, String> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("moto");
    let server = home.join("bin/moto_server");
    if server.exists() {
        return Ok(server);
    }
    let run = |command: &mut Command| {
        let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
        }
    };
    run(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
    run(Command::new(home.join("bin/pip")).args(["install", "--quiet", "moto[server,s3]"]))?;
    Ok(server)
}

fn start() -> Result<Moto, String> {
    let server = installed()?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .map_err(|e| e.to_string())?
        .port();
    let child = Command::new(server)
        .args(["-H", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| e.to_string())?;
    let moto = Moto { child, port };
    let until = Instant::now() + Duration::from_secs(60);
    let request = format!(
        "PUT /checkpoints HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    while Instant::now() < until {
        if let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) {
            let mut answer = String::new();
            let asked = socket.write_all(request.as_bytes()).and_then(|()| socket.read_to_string(&mut answer));
            if asked.is_ok() && answer.starts_with("HTTP/1.1 200") {
                return Ok(moto);
            }
        }
        // It tells nobody when it listens.
        std::thread::sleep(Duration::from_millis(50));
    }
    Err("the server does not answer".into())
}

fn store(moto: &Moto) -> Arc<dyn Store> {
    let s3 = AmazonS3Builder::new()
        .with_endpoint(format!("http://127.0.0.1:{}", moto.port))
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name("checkpoints")
        .with_access_key_id("key")
        .with_secret_access_key("secret")
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .build()
        .unwrap();
    Arc::new(RemoteStore::new(Arc::new(s3), "some/prefix").unwrap())
}

#[test]
fn s3_holds_checkpoints_that_another_server_restores() {
    let moto = match start() {
        Ok(moto) => moto,
        Err(problem) => {
            println!("SKIPPED: no S3 server could be installed here (python3 -m venv, pip install moto): {problem}");
            return;
        }
    };
    let plain = store(&moto);
    plain.put("orgs/x/y", bytes::Bytes::from_static(b"12345"), Keep::Always).unwrap();
    assert_eq!(&plain.get("orgs/x/y", Some(1..3)).unwrap()[..], b"23");
    assert!(!plain.put_new("orgs/x/y", bytes::Bytes::from_static(b"other")).unwrap());
    assert_eq!(&plain.get("orgs/x/y", None).unwrap()[..], b"12345");
    plain.delete("orgs/x/y").unwrap();
    plain.delete("orgs/x/y").unwrap();
    assert!(matches!(plain.get("orgs/x/y", None), Err(forkpoint_vault::StoreError::Missing { .. })));

    let folder = tempfile::tempdir().unwrap();
    let mut options = VaultOptions::new("s3://checkpoints/some/prefix");
    options.cache = Some(folder.path().join("cache"));
    options.pack_bytes = 1 << 20;
    let open = |options: &VaultOptions| Vault::open_on(store(&moto), options, &Home::key(folder.path())).unwrap();
    let vault = open(&options);
    let tree = tempfile::tempdir().unwrap();
    one_of_everything(tree.path());
    many_files(tree.path(), 1, 200, 4000);
    let first = vault.persist(&job(tree.path(), snapshot(1, 1))).unwrap();
    std::fs::write(tree.path().join("more"), noise(77, 3_000_000)).unwrap();
    let second = vault.persist(&job(tree.path(), snapshot(1, 2))).unwrap();
    assert!(second.bytes_sent < 3_200_000 && first.bytes_sent > 3_000_000, "{first:?} {second:?}");
    // Another machine: nothing in common but the store and the key.
    options.cache = Some(folder.path().join("other-cache"));
    let other = open(&options);
    assert_eq!(other.verify(snapshot(1, 2), None, &Progress::default()).unwrap().root, second.root);
    assert_eq!(described(&restore(&other, folder.path(), snapshot(1, 2))), described(tree.path()));
    other.delete(snapshot(1, 2)).unwrap();
    let collected = other.collect(&CollectOptions::default()).unwrap();
    assert!(collected.bytes_removed > 2_900_000, "{collected:?}");
    vault.verify(snapshot(1, 1), None, &Progress::default()).unwrap();
    assert_eq!(other.check(100, &Progress::default()).unwrap().problems, []);
    vault.destroy_org(org(1)).unwrap();
    assert_eq!(other.stats(None).unwrap().objects, 1, "only the format object is left");
}
