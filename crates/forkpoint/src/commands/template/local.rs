//! Templates of a data directory, without a server.

use crate::{
    commands::Failure,
    config::{self, Config},
    output::Output,
    wire,
};
use forkpoint_domain::template::{DEFAULT_TEMPLATE, TemplateName};
use forkpoint_engine::ports::records::{Change, CheckpointFilter, Records as _, SandboxFilter};
use forkpoint_templates::TemplateStore;
use serde_json::json;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The settings of the server on a data directory, as far as templates need them, and the directory.
pub(super) fn open(data_dir: Option<&Path>) -> Result<(Config, PathBuf), Failure> {
    let config = settings(data_dir)?;
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::Other("this works on the server's data directory, so it must run as root".to_owned()));
    }
    let data_dir = wire::prepare_data_dir(&config.data_dir).map_err(whole)?;
    Ok((config, data_dir))
}

fn settings(data_dir: Option<&Path>) -> Result<Config, Failure> {
    let mut flags = Vec::new();
    if let Some(data_dir) = data_dir {
        let text = data_dir.to_str().ok_or_else(|| Failure::Usage("--data-dir must be UTF-8".to_owned()))?;
        flags.push(("data-dir", text.to_owned()));
    }
    config::load(None, std::env::vars(), &flags).map_err(whole)
}

/// Removes all versions of the operator's templates that nothing lies on; one that is in use keeps all of them.
/// Of the default template the version that a server starts with stays.
pub(super) async fn remove(names: &[TemplateName], data_dir: &Path, output: Output) -> Result<(), Failure> {
    if !data_dir.is_dir() {
        return Err(Failure::Other(format!("there is no data directory {}", data_dir.display())));
    }
    let (config, data_dir) = open(Some(data_dir))?;
    // A server could be about to start a sandbox from one.
    let Some(_lock) = wire::lock(&data_dir).map_err(whole)? else {
        let holder = wire::lock_holder(&data_dir).map_or_else(String::new, |pid| format!(" (process {pid})"));
        return Err(Failure::Other(format!("a server works on {}{holder}; stop it first", data_dir.display())));
    };
    let mut in_use = BTreeMap::new();
    if config.database_url.is_some() || data_dir.join("forkpoint.db").exists() {
        let records = wire::open_records(&config, &data_dir).await.map_err(whole)?;
        let unread = |error| Failure::Other(format!("list what is in use: {error}"));
        let checkpoints = records.checkpoints(CheckpointFilter::default()).await.map_err(unread)?;
        let (steps, named): (Vec<_>, Vec<_>) = checkpoints.into_iter().partition(|one| one.step_key.is_some());
        in_use.extend(named.into_iter().map(|one| (one.template, format!("checkpoint {}", one.id))));
        let sandboxes = records.sandboxes(SandboxFilter::default()).await.map_err(unread)?;
        let with_layer = sandboxes.into_iter().filter(|one| one.layer.is_some());
        in_use.extend(with_layer.map(|one| (one.template, format!("sandbox {}", one.id))));
        // What recipes' steps left only saves time; the next server removes their layers.
        for step in
            steps.into_iter().filter(|one| names.contains(&one.template.name) && !in_use.contains_key(&one.template))
        {
            let gone = Change::DeleteCheckpoint { id: step.id, at: jiff::Timestamp::now() };
            records.commit(vec![gone]).await.map_err(|error| Failure::Other(format!("forget a step: {error}")))?;
        }
    }
    let store = TemplateStore::open(&data_dir, &config.cache_dir).map_err(|error| Failure::Other(error.to_string()))?;
    let present = store.list().map_err(|error| Failure::Other(error.to_string()))?;
    for name in names {
        let mut versions: Vec<_> = present
            .iter()
            .filter(|one| one.name.as_str() == name.as_str() && one.manifest.details.owner.is_none())
            .collect();
        let user = |digest: &str| in_use.iter().find(|(of, _)| of.name == *name && of.digest == digest);
        if name.as_str() == DEFAULT_TEMPLATE {
            versions.pop();
            versions.retain(|one| user(&one.digest).is_none());
        } else if versions.is_empty() {
            return Err(Failure::Other(format!("the operator has no template '{name}' in {}", data_dir.display())));
        }
        if let Some((_, user)) = versions.iter().find_map(|one| user(&one.digest)) {
            return Err(Failure::Other(format!("template '{name}' is in use by {user}; delete that first")));
        }
        let mut removed = Vec::new();
        for version in versions {
            store.remove(name.as_str(), &version.digest).map_err(|error| Failure::Other(error.to_string()))?;
            removed.push(version.digest.clone());
        }
        let answer = json!({ "id": name.as_str(), "removed": removed });
        output.value_or(&answer, || removed.iter().try_for_each(|digest| output.line(&format!("{name} {digest}"))))?;
    }
    Ok(())
}

fn whole(error: anyhow::Error) -> Failure {
    Failure::Other(format!("{error:#}"))
}
