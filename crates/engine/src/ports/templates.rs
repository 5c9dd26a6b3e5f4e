//! Templates as the host keeps them, and what is to become one.

use super::sealer::Sealed;
use forkpoint_domain::{
    env::Environment,
    ids::OrgId,
    recipe::Service,
    restore::TreeRef,
    template::{TemplateName, TemplateRef},
};
use jiff::Timestamp;

/// One version of a template, and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateInfo {
    /// Which.
    pub template: TemplateRef,
    /// The organisation that alone sees it; `None`: the operator made it, and everybody sees it.
    pub owner: Option<OrgId>,
    /// What people are told of it.
    pub about: TemplateAbout,
    /// Environment variables that are no secrets.
    pub env: Environment,
    /// Environment variables that may be, sealed for [`TemplateRef::name`] of the owner.
    pub sealed_env: Option<Sealed>,
    /// Where it came from, for people.
    pub origin: String,
    /// Who commands in its sandboxes run as; `None`: `sandbox`.
    pub user: Option<String>,
    /// What runs in its sandboxes from their start.
    pub services: Vec<Service>,
    /// What a recipe's build is known by; empty if it was made otherwise.
    pub recipe: String,
    /// Distribution release, such as `bookworm`; empty if unknown.
    pub release: String,
    /// Entries that are not directories.
    pub file_count: u64,
    /// Bytes of its regular files.
    pub size_bytes: u64,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What people are told of a template. Everything may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateAbout {
    /// What it is for.
    pub description: String,
    /// A word to look for it by.
    pub category: String,
    /// More words.
    pub tags: Vec<String>,
}

/// A tree that is to become a template.
#[derive(Debug, Clone)]
pub struct NewTemplate {
    /// What it is called.
    pub name: TemplateName,
    /// Whose it is.
    pub owner: OrgId,
    /// Everything that it shows.
    pub tree: TreeRef,
    /// What people are told of it.
    pub about: TemplateAbout,
    /// Its environment.
    pub sealed_env: Option<Sealed>,
    /// Where it came from, for people.
    pub origin: String,
    /// Who commands in its sandboxes run as; `None`: `sandbox`.
    pub user: Option<String>,
    /// What runs in its sandboxes from their start.
    pub services: Vec<Service>,
    /// What a recipe's build is known by: 32 hex digits, or empty.
    pub recipe: String,
}
