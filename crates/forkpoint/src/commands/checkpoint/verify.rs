//! `forkpoint checkpoint verify`: proves what a checkpoint is, over a server, from the store alone, or of one file with
//! nothing but a proof.

use crate::{
    commands::{Context, Failure},
    vault,
};
use forkpoint_domain::ids::CheckpointId;
use forkpoint_vault::{
    InclusionProof, MasterKey, Progress, RootHash, SnapshotRef, Vault, VaultError, VaultOptions, hash_file,
};
use serde_json::{Value, json};
use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

/// The largest proof that is read.
const MAX_PROOF: u64 = 16 << 20;

/// What to verify, and by what.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --data-dir, --vault or --proof, the server reads its vault. With --data-dir or --vault, \
                        no server is needed. With --proof, neither store nor key is."
)]
pub(crate) struct Args {
    /// Which checkpoint
    #[arg(required_unless_present = "proof", conflicts_with = "proof")]
    id: Option<CheckpointId>,
    /// Print a proof that this file is in it, as JSON
    #[arg(long, value_name = "PATH", conflicts_with = "proof")]
    file: Option<String>,
    /// Read the vault of this data directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["vault", "proof"])]
    data_dir: Option<PathBuf>,
    /// Read the vault at this address (s3://…, gs://…, az://…, a directory)
    #[arg(long, value_name = "URL", requires = "master_key", conflicts_with = "proof")]
    vault: Option<String>,
    /// The key file that the vault was made with
    #[arg(long, value_name = "FILE", requires = "vault")]
    master_key: Option<PathBuf>,
    /// The checksum that it must have
    #[arg(long, value_name = "b3:HEX")]
    checksum: Option<RootHash>,
    /// Check this proof (- for standard input); needs --checksum
    #[arg(long, value_name = "FILE", requires = "checksum")]
    proof: Option<PathBuf>,
    /// With --proof: this local file must be what was proven
    #[arg(long, value_name = "FILE", requires = "proof")]
    content: Option<PathBuf>,
}

/// Verifies; fails if anything is not as it must be.
pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    if let (Some(proof), Some(checksum)) = (&args.proof, args.checksum) {
        return check_proof(proof, checksum, args.content.as_deref(), context);
    }
    let id = args.id.ok_or_else(|| Failure::Usage("give the checkpoint (cp-…) to verify".to_owned()))?;
    let offline = match (&args.data_dir, &args.vault) {
        (Some(data_dir), _) => Some(vault::open(data_dir).await.map_err(|e| Failure::Other(format!("{e:#}")))?),
        (None, Some(url)) => Some(open_store(url.clone(), args.master_key.clone().unwrap_or_default()).await?),
        (None, None) => None,
    };
    let answer = match offline {
        Some(vault) => {
            let file = args.file.clone();
            let work = tokio::task::spawn_blocking(move || from_store(&vault, id, file.as_deref()));
            work.await.map_err(|error| Failure::Other(format!("verify: {error}")))??
        }
        None => {
            let client = context.client()?;
            match &args.file {
                Some(path) => client.get(&format!("/checkpoints/{id}/proof"), &[("path", path)]).await?,
                None => client.post(&format!("/checkpoints/{id}/verify"), &json!({})).await?,
            }
        }
    };
    let found = answer.get("checksum").and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(expected) = args.checksum.filter(|expected| expected.to_string() != found) {
        return Err(Failure::Other(format!("checkpoint {id} has the checksum {found}, not {expected}")));
    }
    if args.file.is_some() {
        // Whoever gets it must not need to trust whoever made it; a proof that does not hold is none.
        let root = found.parse().map_err(|error: VaultError| Failure::Other(error.to_string()))?;
        let proof = InclusionProof::from_json(&answer).and_then(|proof| proof.verify(root));
        proof.map_err(|error| Failure::Other(format!("the server's proof does not hold: {error}")))?;
        context.output.value(&answer)?;
        return Ok(0);
    }
    let count = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or(0);
    context.output.value_or(&answer, || {
        let (files, directories, bytes) = (count("files"), count("directories"), count("bytes"));
        context.output.line(&format!("{found} verified: {files} files, {directories} directories, {bytes} bytes read"))
    })?;
    Ok(0)
}

/// Reads a checkpoint, or the way to a file of it, from the store alone.
fn from_store(vault: &Vault, id: CheckpointId, file: Option<&str>) -> Result<Value, Failure> {
    let failed = |error: VaultError| Failure::Other(format!("checkpoint {id}: {error}"));
    let mut found = None;
    for org in vault.list_orgs().map_err(failed)? {
        let name = SnapshotRef { org, checkpoint: id };
        match vault.read(name) {
            Ok(stored) => found = Some((name, stored)),
            Err(VaultError::NotFound(_)) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let (name, stored) = found.ok_or_else(|| Failure::Other(format!("the vault holds no checkpoint {id}")))?;
    if let Some(path) = file {
        let relative = path.trim_start_matches('/');
        let proof = vault.prove(name, Path::new(relative)).map_err(failed)?;
        return proof.to_json(stored.root).map_err(failed);
    }
    let read = vault.verify(name, None, &Progress::default()).map_err(failed)?;
    Ok(json!({
        "id": id.to_string(),
        "checksum": read.root.to_string(),
        "organization": name.org.to_string(),
        "template": format!("{}@{}", stored.header.template_name, stored.header.template_digest),
        "directories": read.directories,
        "files": read.files,
        "bytes": read.bytes,
    }))
}

/// Opens a vault by its address. One that is not there is not made.
async fn open_store(url: String, key: PathBuf) -> Result<Vault, Failure> {
    let work = tokio::task::spawn_blocking(move || {
        let master = MasterKey::open(&key).map_err(|error| Failure::Other(error.to_string()))?;
        if Path::new(&url).is_absolute() && !Path::new(&url).join("format").is_file() {
            return Err(Failure::Other(format!("there is no vault at {url}")));
        }
        let store = forkpoint_vault::store::open(&url).map_err(|error| Failure::Other(error.to_string()))?;
        if let Err(error) = store.get("format", None) {
            return Err(Failure::Other(format!("there is no vault at {url}: {error}")));
        }
        Vault::open_on(store, &VaultOptions::new(url), &master).map_err(|error| Failure::Other(error.to_string()))
    });
    work.await.map_err(|error| Failure::Other(format!("open the vault: {error}")))?
}

/// Checks a proof against the checksum of a checkpoint, with nothing else.
fn check_proof(path: &Path, checksum: RootHash, content: Option<&Path>, context: &Context) -> Result<u8, Failure> {
    let mut bytes = Vec::new();
    let read = match path.as_os_str() == "-" {
        true => read_all(&mut std::io::stdin().lock(), &mut bytes),
        false => std::fs::File::open(path).and_then(|mut file| read_all(&mut file, &mut bytes)),
    };
    read.map_err(Failure::io(format!("read {}", path.display())))?;
    let refused = |problem: String| Failure::Other(format!("{}: {problem}", path.display()));
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| refused(format!("it is not JSON: {error}")))?;
    let proof = InclusionProof::from_json(&value).and_then(|proof| proof.verify(checksum));
    let proven = proof.map_err(|error| refused(error.to_string()))?;
    let shown = format!("/{}", String::from_utf8_lossy(&proven.path));
    if let Some(content) = content {
        let (size, digest) = hash_file(content).map_err(|error| Failure::Other(error.to_string()))?;
        if proven.file != Some((size, digest)) {
            return Err(Failure::Other(format!("{} is not what was proven of {shown}", content.display())));
        }
    }
    let digest = proven.file.map(|(_, digest)| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let answer = json!({
        "path": shown,
        "checksum": checksum.to_string(),
        "size": proven.file.map(|(size, _)| size),
        "digest": digest,
    });
    context.output.value_or(&answer, || {
        let what = match (&digest, proven.file) {
            (Some(digest), Some((size, _))) => format!("{size} bytes, digest {digest}"),
            _ => "not a regular file".to_owned(),
        };
        context.output.line(&format!("{} is in {checksum}: {what}", crate::output::clean(&shown)))
    })?;
    Ok(0)
}

fn read_all(from: &mut dyn std::io::Read, into: &mut Vec<u8>) -> std::io::Result<()> {
    from.take(MAX_PROOF).read_to_end(into).map(drop)
}
