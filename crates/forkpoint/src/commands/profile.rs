//! `forkpoint profile`: remembers servers and keys by name.

use super::{Context, Failure};
use crate::{
    client::{ApiKey, parse_url},
    output::Cell,
    profile::Profiles,
};
use serde_json::json;
use std::{io::Read as _, path::PathBuf};

/// A key is never this long.
const MAX_KEY_BYTES: u64 = 4096;

/// What to do with profiles.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Add or replace a profile; give the address by --url and the key by --key or --key-stdin
    Add {
        /// What it is called
        name: String,
        /// Read the key from standard input, where other users of this machine cannot see it
        #[arg(long)]
        key_stdin: bool,
    },
    /// List profiles, without their keys
    #[command(visible_alias = "list")]
    Ls,
    /// Use a profile from now on
    Use {
        /// Its name
        name: String,
    },
    /// Forget a profile
    Rm {
        /// Its name
        name: String,
    },
}

/// Does it.
pub(crate) fn run(command: Command, context: &Context) -> Result<u8, Failure> {
    let path = profiles_path()?;
    let mut profiles = Profiles::read(&path)?;
    match command {
        Command::Add { name, key_stdin } => {
            if key_stdin && context.connection.key.is_some() {
                return Err(Failure::Usage("give the key by --key or by --key-stdin, not both".to_owned()));
            }
            let url = context
                .connection
                .url
                .clone()
                .ok_or_else(|| Failure::Usage("give the server's address by --url".to_owned()))?;
            let url = parse_url(&url)?.to_string();
            let key = if key_stdin { Some(read_key()?) } else { context.connection.key.clone() };
            profiles.add(&name, url, key.as_ref())?;
            profiles.write(&path)?;
        }
        Command::Ls => list(&profiles, context)?,
        Command::Use { name } => {
            profiles.named(&name)?;
            profiles.current = Some(name);
            profiles.write(&path)?;
        }
        Command::Rm { name } => {
            profiles.named(&name)?;
            profiles.profiles.remove(&name);
            profiles.current = profiles.current.filter(|current| *current != name);
            profiles.write(&path)?;
        }
    }
    Ok(0)
}

/// Where profiles are kept.
pub(crate) fn profiles_path() -> Result<PathBuf, Failure> {
    Profiles::path(super::environment)
        .ok_or_else(|| Failure::Other("no place for profiles: neither XDG_CONFIG_HOME nor HOME is set".to_owned()))
}

fn list(profiles: &Profiles, context: &Context) -> Result<(), Failure> {
    let rows = profiles.profiles.iter().map(|(name, profile)| {
        json!({
            "name": name,
            "url": profile.url,
            "has_key": profile.key.is_some(),
            "current": profiles.current.as_ref() == Some(name),
        })
    });
    let rows: Vec<_> = rows.collect();
    let cells: Vec<_> =
        rows.iter().map(|row| ["name", "url", "has_key", "current"].map(|name| Cell::text(row, name)).into()).collect();
    let value = json!({"profiles": rows});
    context.output.value_or(&value, || context.output.table(&["NAME", "URL", "KEY", "CURRENT"], &cells))?;
    Ok(())
}

fn read_key() -> Result<ApiKey, Failure> {
    let mut text = String::new();
    std::io::stdin().lock().take(MAX_KEY_BYTES).read_to_string(&mut text).map_err(Failure::io("read the key"))?;
    if text.trim().is_empty() {
        return Err(Failure::Other("standard input holds no key".to_owned()));
    }
    Ok(text.into())
}
