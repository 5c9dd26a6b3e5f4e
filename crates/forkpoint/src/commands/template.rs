//! `forkpoint template`: lists, shows, publishes and removes templates by way of a server; imports and removes those
//! of the operator in a data directory.

mod base;
mod build;
mod import;
mod local;

use super::{Context, Failure};
use crate::output::{Cell, Output, clean, text};
use forkpoint_domain::{ids::CheckpointId, template::TemplateName};
use serde_json::{Value, json};
use std::{io, path::PathBuf};

/// What to do with templates.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List templates: the operator's and those that the organisation published
    #[command(visible_alias = "list")]
    Ls {
        /// Only those of this category
        #[arg(long, value_name = "WORD")]
        category: Option<String>,
        /// Only those with this text in name, description or tags
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
    },
    /// Show a template
    #[command(visible_alias = "get")]
    Show {
        /// Which
        name: TemplateName,
    },
    /// Build a template by a recipe
    ///
    /// Steps that an earlier build did with the same base, recipe and files are not done again. Ending this command
    /// ends the build, unless --keep-going is given.
    Build(build::Args),
    /// Make a template of a checkpoint
    Publish {
        /// Which
        checkpoint: CheckpointId,
        /// What the template is called
        name: TemplateName,
        #[command(flatten)]
        about: About,
        /// Leave out the checkpoint's environment
        #[arg(long)]
        no_env: bool,
    },
    /// Make a template of a root directory, a tar archive (plain, gzip, xz, zstd), an OCI layout or a docker-archive
    ///
    /// For the server's operator: works on the data directory, whether its server runs or not, and everybody on that
    /// server can use the template.
    Import(import::Args),
    /// Remove templates; refused while sandboxes or checkpoints lie on them
    ///
    /// One of the organisation, or with --data-dir, while no server works there, one of the operator.
    #[command(visible_alias = "delete")]
    Rm {
        /// Which
        #[arg(required = true, value_name = "NAME")]
        names: Vec<TemplateName>,
        /// Remove the operator's template of this data directory
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
}

/// What people are told of a template.
#[derive(Debug, clap::Args)]
pub(crate) struct About {
    /// What it is for
    #[arg(long)]
    description: Option<String>,
    /// A word to look for it by
    #[arg(long, value_name = "WORD")]
    category: Option<String>,
    /// Another such word; can be repeated
    #[arg(long = "tag", value_name = "WORD")]
    tags: Vec<String>,
}

/// Does it.
pub(crate) async fn run(command: Command, context: &Context) -> Result<u8, Failure> {
    let output = context.output;
    match command {
        Command::Ls { category, search } => {
            let filters = [("category", category.as_deref()), ("search", search.as_deref())];
            let query: Vec<_> = filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
            let answer = context.client()?.get("/templates", &query).await?;
            output.value_or(&answer, || list(output, &answer))?;
        }
        Command::Show { name } => {
            let answer = context.client()?.get(&format!("/templates/{name}"), &[]).await?;
            output.value_or(&answer, || super::sandbox::show_fields(output, &answer))?;
        }
        Command::Publish { checkpoint, name, about, no_env } => {
            let body = json!({
                "name": name.as_str(),
                "description": about.description.unwrap_or_default(),
                "category": about.category.unwrap_or_default(),
                "tags": about.tags,
                "include_env": !no_env,
            });
            let answer = context.client()?.post(&format!("/checkpoints/{checkpoint}/publish"), &body).await?;
            output.value_or(&answer, || output.line(&clean(&text(&answer, "id"))))?;
        }
        Command::Build(args) => return Box::pin(build::run(args, context)).await,
        Command::Import(args) => return import::run(args, context).await,
        Command::Rm { names, data_dir: Some(data_dir) } => local::remove(&names, &data_dir, output).await?,
        Command::Rm { names, data_dir: None } => {
            let client = context.client()?;
            for name in &names {
                let answer = client.delete(&format!("/templates/{name}")).await.map_err(|error| {
                    if names.len() == 1 { error.into() } else { Failure::Other(format!("{name}: {error}")) }
                })?;
                output.value_or(&answer, || output.line(name.as_str()))?;
            }
        }
    }
    Ok(0)
}

fn list(output: Output, answer: &Value) -> io::Result<()> {
    let templates = answer.get("templates").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<_> = templates
        .iter()
        .map(|template| {
            vec![
                Cell::text(template, "id"),
                Cell::text(template, "owner"),
                Cell::text(template, "category"),
                Cell::bytes(template, "size_bytes"),
                Cell::text(template, "file_count"),
                Cell::time(template, "created_at"),
                Cell::text(template, "description"),
            ]
        })
        .collect();
    output.table(&["NAME", "OWNER", "CATEGORY", "SIZE", "FILES", "CREATED", "DESCRIPTION"], &rows)
}
