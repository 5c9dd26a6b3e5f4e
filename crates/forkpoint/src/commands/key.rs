//! `forkpoint key`: makes, lists and revokes API keys.

use super::{Context, Failure, arguments::set};
use crate::output::{Cell, clean, text};
use forkpoint_domain::ids::ApiKeyId;
use serde_json::{Value, json};

/// What to do with keys.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a key; it is shown only this once
    Create {
        /// What it is called
        name: String,
        /// It stops working after this many days
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
        expires_in_days: Option<u32>,
        /// What it may do; can be repeated; without it: everything
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
    },
    /// List keys
    #[command(visible_alias = "list")]
    Ls,
    /// Revoke a key
    Rm {
        /// Its id, as listed
        id: ApiKeyId,
    },
}

/// Does it.
pub(crate) async fn run(command: Command, context: &Context) -> Result<u8, Failure> {
    let client = context.client()?;
    let output = context.output;
    match command {
        Command::Create { name, expires_in_days, scopes } => {
            let mut body = json!({"name": name});
            set(&mut body, "expires_in_days", expires_in_days);
            set(&mut body, "scopes", (!scopes.is_empty()).then_some(scopes));
            let answer = client.create("/api-keys", &body).await?;
            output.value_or(&answer, || output.line(&clean(&text(&answer, "key"))))?;
        }
        Command::Ls => {
            let answer = client.get("/api-keys", &[]).await?;
            let keys = answer.get("api_keys").and_then(Value::as_array).cloned().unwrap_or_default();
            let rows: Vec<_> = keys
                .iter()
                .map(|key| {
                    let mut row: Vec<_> = ["id", "name", "key_prefix"].map(|name| Cell::text(key, name)).into();
                    row.extend(["created_at", "last_used_at", "expires_at"].map(|name| Cell::time(key, name)));
                    row
                })
                .collect();
            output
                .value_or(&answer, || output.table(&["ID", "NAME", "PREFIX", "CREATED", "USED", "EXPIRES"], &rows))?;
        }
        Command::Rm { id } => {
            let answer = client.delete(&format!("/api-keys/{id}")).await?;
            output.value_or(&answer, || output.line(&id.to_string()))?;
        }
    }
    Ok(0)
}
