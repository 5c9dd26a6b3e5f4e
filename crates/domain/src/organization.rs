//! Organisations, their users and API keys.

use crate::{
    Invalid,
    ids::{ApiKeyId, OrgId, UserId},
};
use jiff::Timestamp;

/// Owner of sandboxes, checkpoints and keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organization {
    /// Its name for ever.
    pub id: OrgId,
    /// What it is called.
    pub name: String,
    /// The name in kebab case, unique on this server.
    pub slug: String,
    /// Machine name of its plan.
    pub plan: String,
    /// When it was registered.
    pub created_at: Timestamp,
}

/// A person of an organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name for ever.
    pub id: UserId,
    /// Where the person belongs.
    pub org_id: OrgId,
    /// E-mail address.
    pub email: String,
    /// What the person may do; `owner` for who registered.
    pub role: String,
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
    /// When the person was added.
    pub created_at: Timestamp,
}

/// An API key as recorded: never its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its name for ever.
    pub id: ApiKeyId,
    /// Whose objects it reaches.
    pub org_id: OrgId,
    /// What it is called.
    pub name: String,
    /// The beginning of its text, to recognise it by.
    pub prefix: String,
    /// SHA-256 of its text.
    pub hash: [u8; 32],
    /// What it may do; empty: everything.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last used, to about a minute.
    pub last_used_at: Option<Timestamp>,
    /// When it stops working.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

impl ApiKey {
    /// Whether the key works at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }

    /// Whether the key may do what needs `scope`.
    pub fn permits(&self, scope: KeyScope) -> bool {
        self.scopes.is_empty() || self.scopes.iter().any(|held| held == "*" || held == scope.as_str())
    }
}

/// What a route needs of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyScope {
    /// Reads sandboxes, their files and checkpoints.
    Read,
    /// Creates, changes, runs.
    Write,
    /// Manages keys.
    Admin,
}

impl KeyScope {
    /// The scope as keys name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// Checks the scopes asked for a new key.
pub fn check_scopes(scopes: &[String]) -> Result<(), Invalid> {
    match scopes.iter().position(|scope| !["read", "write", "admin", "*"].contains(&scope.as_str())) {
        Some(index) => Err(Invalid::new(format!("scopes[{index}]"), "must be one of read, write, admin, *")),
        None => Ok(()),
    }
}

/// How every minted key begins.
pub const KEY_PREFIX: &str = "sk-sandbox-";
/// How many random bytes a key is made of.
pub const KEY_RANDOM_BYTES: usize = 64;

/// Writes a key's text from random bytes: `sk-sandbox-<16>.<24>.<24>` of `A-Za-z0-9`.
///
/// Three non-empty segments, since the published client classes treat such a token as complete
/// without an organisation id. Gives the text and the prefix to recognise it by.
pub fn key_text(random: &[u8; KEY_RANDOM_BYTES]) -> (String, String) {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::from(KEY_PREFIX);
    for (index, byte) in random.iter().enumerate() {
        if index == 16 || index == 40 {
            text.push('.');
        }
        // 256 % 62 leaves a bias of under 2^-5 bits a letter; 64 letters hold 380 bits.
        text.push(char::from(LETTERS[usize::from(*byte) % LETTERS.len()]));
    }
    let prefix = text[..KEY_PREFIX.len() + 4].to_owned();
    (text, prefix)
}

/// The kebab-case form of an organisation's name; `org` if nothing of it is left.
pub fn slug(name: &str) -> String {
    let mut slug = String::new();
    for c in name.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
        if slug.len() >= 48 {
            break;
        }
    }
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { "org".to_owned() } else { slug.to_owned() }
}

/// Checks a name of a person, organisation or key: 1 to 200 characters, no control characters.
pub fn check_display_name(field: &str, name: &str) -> Result<(), Invalid> {
    if name.trim().is_empty() {
        return Err(Invalid::new(field, "is required and must not be empty"));
    }
    if name.chars().count() > 200 || name.chars().any(char::is_control) {
        return Err(Invalid::new(field, "must have at most 200 characters and no control characters"));
    }
    Ok(())
}

/// Checks an e-mail address for its bare form; whether it exists only a message could tell.
pub fn check_email(email: &str) -> Result<(), Invalid> {
    let good = email.len() <= 254
        && !email.chars().any(|c| c.is_control() || c.is_whitespace())
        && email.split_once('@').is_some_and(|(local, host)| {
            !local.is_empty()
                && !host.contains('@')
                && host.contains('.')
                && !host.starts_with('.')
                && !host.ends_with('.')
        });
    if good { Ok(()) } else { Err(Invalid::new("email", "must be an e-mail address like dev@example.com")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_kebab_case() {
        for (name, expected) in
            [("Acme Corp", "acme-corp"), ("  A & B, Inc. ", "a-b-inc"), ("日本", "org"), ("x--y", "x-y")]
        {
            assert_eq!(slug(name), expected);
        }
    }

    #[test]
    fn keys_have_the_form_clients_expect() {
        let (text, prefix) = key_text(&[7; KEY_RANDOM_BYTES]);
        assert!(text.starts_with(&prefix));
        assert_eq!(prefix.len(), "sk-sandbox-".len() + 4);
        let segments: Vec<_> = text.split('.').collect();
        assert_eq!(segments.len(), 3);
        assert!(
            segments.iter().all(|s| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)))
        );
    }

    #[test]
    fn addresses_that_cannot_be_are_refused() {
        for bad in ["", "dev", "@x.y", "dev@", "dev@host", "a b@x.y", "a@b@c.d"] {
            assert_eq!(check_email(bad).unwrap_err().field, "email", "{bad}");
        }
        assert!(check_email("dev@company.com").is_ok());
    }
}
