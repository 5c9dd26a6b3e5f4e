//! Names that a data directory and its sandboxes have on the host and inside.

use super::memory;
use forkpoint_domain::ids::SandboxId;
use forkpoint_engine::ports::runtime::RuntimeError;
use forkpoint_jail::IdentityFile;
use std::path::Path;

/// Eight hex digits in `<data-dir>/id`, made at the first start. Groups, links and rules carry them.
pub(super) fn instance_name(data_dir: &Path) -> Result<String, RuntimeError> {
    let path = data_dir.join("id");
    match std::fs::read_to_string(&path) {
        Ok(text) if is_instance_name(text.trim()) => return Ok(text.trim().to_owned()),
        Ok(_) => {
            let problem = format!("{} does not hold 8 hex digits", path.display());
            return Err(RuntimeError::Failed { step: "read instance name", problem });
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(RuntimeError::Failed { step: "read instance name", problem: error.to_string() }),
    }
    let name = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
    memory::write_beside(&path, format!("{name}\n").as_bytes(), true)
        .map_err(|error| RuntimeError::Failed { step: "write instance name", problem: error.to_string() })?;
    Ok(name)
}

fn is_instance_name(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The host name inside: short enough for everything that shows one.
pub(super) fn host_name(sandbox: SandboxId) -> String {
    let text = sandbox.uuid().simple().to_string();
    format!("sb-{}", &text[text.len() - 12..])
}

/// Files that are fresh at each start and outside of the layer.
pub(super) fn files(sandbox: SandboxId, has_resolver: bool) -> Vec<IdentityFile> {
    let host = host_name(sandbox);
    let machine = uuid::Uuid::new_v4().simple();
    let resolver =
        if has_resolver { format!("nameserver {}\n", forkpoint_network::SLOT_GATEWAY) } else { String::new() };
    let file = |path: &str, content: String| IdentityFile { path: path.into(), content: content.into_bytes() };
    vec![
        file("/etc/hostname", format!("{host}\n")),
        file("/etc/hosts", format!("127.0.0.1\tlocalhost\n{}\t{host}\n", forkpoint_network::SLOT_PEER)),
        file("/etc/resolv.conf", resolver),
        file("/etc/machine-id", format!("{machine}\n")),
    ]
}
