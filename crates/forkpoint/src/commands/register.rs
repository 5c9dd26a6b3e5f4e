//! `forkpoint register`: an organisation and its first API key.

use super::{Context, Failure, arguments::set, profile::profiles_path};
use crate::{
    client::ApiKey,
    output::{clean, text},
    profile::Profiles,
};
use serde_json::json;

/// Who registers.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The owner's e-mail address
    #[arg(long)]
    email: String,
    /// What the organisation is called
    #[arg(long, visible_alias = "organization-name", value_name = "NAME")]
    organization: String,
    /// The owner's first name
    #[arg(long)]
    first_name: Option<String>,
    /// The owner's last name
    #[arg(long)]
    last_name: Option<String>,
    /// What it is for
    #[arg(long)]
    use_case: Option<String>,
    /// Keep address and key under this name, and use them from now on
    #[arg(long, value_name = "PROFILE")]
    save: Option<String>,
}

/// Registers and prints the key, which the server shows only once.
pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    let client = context.client_without_key()?;
    // A profile file that cannot be used must show before a key is made that would be lost.
    let mut kept = match &args.save {
        Some(name) => {
            let path = profiles_path()?;
            let mut profiles = Profiles::read(&path)?;
            profiles.add(name, client.base().to_string(), None)?;
            Some((name, path, profiles))
        }
        None => None,
    };
    let mut body = json!({"email": args.email, "organization_name": args.organization});
    set(&mut body, "first_name", args.first_name);
    set(&mut body, "last_name", args.last_name);
    set(&mut body, "use_case", args.use_case);
    let answer = client.post("/register", &body).await?;
    let key = answer.pointer("/api_key/key").and_then(|key| key.as_str()).unwrap_or_default();
    if key.is_empty() {
        return Err(Failure::Other("the server's answer to the registration holds no API key".to_owned()));
    }
    // Printed before it is saved: if saving fails, the key is not lost.
    context.output.value_or(&answer, || {
        if context.output.terminal {
            let organization = answer.get("organization").cloned().unwrap_or_default();
            context.output.line(&format!(
                "organization {} ({})",
                clean(&text(&organization, "id")),
                clean(&text(&organization, "slug"))
            ))?;
        }
        context.output.line(&clean(key))
    })?;
    if let Some((name, path, profiles)) = &mut kept {
        profiles.add(name, client.base().to_string(), Some(&ApiKey::from(key.to_owned())))?;
        profiles.current = Some((*name).clone());
        profiles.write(path)?;
    }
    Ok(0)
}
