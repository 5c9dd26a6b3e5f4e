//! `forkpoint template import`: a root that was made elsewhere becomes a template of the operator's.

use super::{About, local};
use crate::commands::{Context, Failure, arguments};
use forkpoint_domain::{env::Environment, template::TemplateName};
use forkpoint_templates::{Details, Limits, Publication, TemplateStore};
use serde_json::json;
use std::{collections::BTreeMap, io::Write as _, path::PathBuf, time::Instant};

/// What to import.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the template is called
    name: TemplateName,
    /// The file or directory
    source: PathBuf,
    /// The data directory of the server [default: /var/lib/forkpoint]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Which image, where there are several
    #[arg(long, value_name = "TAG")]
    image: Option<String>,
    #[command(flatten)]
    about: About,
    /// A variable of its sandboxes' environment, besides what an image sets; can be repeated
    #[arg(long = "env", value_parser = arguments::pair, value_name = "NAME=VALUE")]
    env: Vec<(String, String)>,
    /// The most bytes that all files may have together
    #[arg(long, value_parser = arguments::bytes, value_name = "SIZE")]
    max_bytes: Option<u64>,
    /// How many times its size a compressed archive may expand to
    #[arg(long, value_name = "NUMBER")]
    max_ratio: Option<u64>,
}

/// Imports and prints the template's digest. Progress goes to standard error.
pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    let (config, data_dir) = local::open(args.data_dir.as_deref())?;
    let env: BTreeMap<_, _> = args.env.into_iter().collect();
    Environment::parse("env", env.clone()).map_err(|invalid| Failure::Usage(invalid.to_string()))?;
    let defaults = Limits::default();
    let publication = Publication {
        name: args.name.as_str().to_owned(),
        details: Details {
            description: args.about.description.unwrap_or_default(),
            category: args.about.category.unwrap_or_default(),
            tags: args.about.tags,
            env,
            ..Details::default()
        },
        base: None,
        recipe: String::new(),
        tag: args.image,
        limits: Limits {
            max_bytes: args.max_bytes.unwrap_or(defaults.max_bytes),
            max_ratio: args.max_ratio.unwrap_or(defaults.max_ratio),
            ..defaults
        },
    };
    let started = Instant::now();
    let source = args.source;
    let imported = tokio::task::spawn_blocking(move || {
        let store = TemplateStore::open(&data_dir, &config.cache_dir)?;
        store.import(&publication, &source, &mut |progress| {
            // Progress is no reason to fail.
            let _ = writeln!(std::io::stderr().lock(), "{progress}");
        })
    });
    let imported = imported.await.map_err(|error| Failure::Other(format!("import: {error}")))?;
    let (template, left_out) = imported.map_err(|error| Failure::Other(error.to_string()))?;
    let manifest = &template.manifest;
    let answer = json!({
        "id": template.name.as_str(),
        "digest": template.digest,
        "origin": manifest.details.origin,
        "release": manifest.release,
        "file_count": manifest.files,
        "size_bytes": manifest.bytes,
        "left_out_devices": left_out,
        "duration_ms": u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    });
    context.output.value_or(&answer, || context.output.line(&template.digest))?;
    Ok(0)
}
