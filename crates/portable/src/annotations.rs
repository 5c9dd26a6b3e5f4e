//! What the image's manifest says of the checkpoint: where it comes from, and the hash of its tree.

use std::collections::BTreeMap;

use forkpoint_domain::{scope::ScopeSpec, template::TemplateName, template::TemplateRef};
use forkpoint_engine::ports::portable::{EnvState, Lineage};
use serde::de::DeserializeOwned;

use crate::{Error, Result};

const FORMAT: &str = "dev.forkpoint.format";
/// The only form there is so far.
const VERSION: &str = "1";
const ID: &str = "dev.forkpoint.checkpoint.id";
const NAME: &str = "dev.forkpoint.checkpoint.name";
const DESCRIPTION: &str = "dev.forkpoint.checkpoint.description";
const ROOT: &str = "dev.forkpoint.checkpoint.root";
const PARENT: &str = "dev.forkpoint.checkpoint.parent";
const SANDBOX: &str = "dev.forkpoint.checkpoint.sandbox";
const CREATED: &str = "dev.forkpoint.checkpoint.created";
const SCOPE: &str = "dev.forkpoint.checkpoint.scope";
const METADATA: &str = "dev.forkpoint.checkpoint.metadata";
const ENV: &str = "dev.forkpoint.checkpoint.env";
const TEMPLATE_NAME: &str = "dev.forkpoint.template.name";
const TEMPLATE_DIGEST: &str = "dev.forkpoint.template.digest";
const TEMPLATE_LAYERS: &str = "dev.forkpoint.template.layers";

/// The annotations of a manifest.
pub(crate) fn write(lineage: &Lineage, template_layers: usize) -> Result<BTreeMap<&'static str, String>> {
    let json = |value: serde_json::Result<String>| value.map_err(|error| Error::NotACheckpoint(error.to_string()));
    let mut all = BTreeMap::from([
        (FORMAT, VERSION.to_owned()),
        (ID, lineage.checkpoint.to_string()),
        (NAME, lineage.name.clone()),
        (ROOT, lineage.checksum.clone()),
        (SANDBOX, lineage.sandbox.to_string()),
        (CREATED, lineage.created_at.to_string()),
        (SCOPE, json(serde_json::to_string(&lineage.scope))?),
        (METADATA, json(serde_json::to_string(&lineage.metadata))?),
        (ENV, lineage.env.as_str().to_owned()),
        (TEMPLATE_NAME, lineage.template.name.to_string()),
        (TEMPLATE_DIGEST, lineage.template.digest.clone()),
        (TEMPLATE_LAYERS, template_layers.to_string()),
        ("org.opencontainers.image.created", lineage.created_at.to_string()),
        ("org.opencontainers.image.title", lineage.name.clone()),
    ]);
    all.extend(lineage.description.clone().map(|text| (DESCRIPTION, text)));
    all.extend(lineage.parent.map(|parent| (PARENT, parent.to_string())));
    Ok(all)
}

/// Reads them back; also how many layers the template has. Rules of names and sizes are not checked here.
pub(crate) fn read(all: &BTreeMap<String, String>) -> Result<(Lineage, usize)> {
    let refuse = |problem: String| Error::NotACheckpoint(problem);
    match all.get(FORMAT).map(String::as_str) {
        Some(VERSION) => {}
        None => {
            return Err(refuse(
                "its manifest has no annotation dev.forkpoint.format; a plain image can be imported as a template"
                    .into(),
            ));
        }
        Some(other) => {
            let other: String = other.chars().take(20).collect();
            return Err(refuse(format!("its form is {other:?}, this program knows {VERSION:?}")));
        }
    }
    let text = |key: &str| all.get(key).cloned().ok_or_else(|| refuse(format!("the annotation {key} is missing")));
    fn parsed<T: std::str::FromStr>(key: &str, text: &str) -> Result<T> {
        text.parse().map_err(|_| Error::NotACheckpoint(format!("the annotation {key} does not read")))
    }
    fn json<T: DeserializeOwned>(key: &str, text: &str) -> Result<T> {
        serde_json::from_str(text).map_err(|_| Error::NotACheckpoint(format!("the annotation {key} does not read")))
    }
    let scope: ScopeSpec = json(SCOPE, &text(SCOPE)?)?;
    let digest = text(TEMPLATE_DIGEST)?;
    if digest.is_empty() || digest.len() > 128 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(refuse(format!("the annotation {TEMPLATE_DIGEST} is no digest")));
    }
    let layers: usize = parsed(TEMPLATE_LAYERS, &text(TEMPLATE_LAYERS)?)?;
    let lineage = Lineage {
        checkpoint: parsed(ID, &text(ID)?)?,
        sandbox: parsed(SANDBOX, &text(SANDBOX)?)?,
        parent: all.get(PARENT).map(|parent| parsed(PARENT, parent)).transpose()?,
        name: text(NAME)?,
        description: all.get(DESCRIPTION).cloned(),
        metadata: json(METADATA, &text(METADATA)?)?,
        template: TemplateRef { name: parsed::<TemplateName>(TEMPLATE_NAME, &text(TEMPLATE_NAME)?)?, digest },
        scope,
        created_at: parsed(CREATED, &text(CREATED)?)?,
        checksum: parsed::<forkpoint_vault::RootHash>(ROOT, &text(ROOT)?)?.to_string(),
        env: EnvState::parse(&text(ENV)?).ok_or_else(|| refuse(format!("the annotation {ENV} does not read")))?,
    };
    Ok((lineage, layers))
}
