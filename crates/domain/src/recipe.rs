//! Recipes: how a template is made, step by step. Written in TOML; whatever is wrong is refused with its place.

mod parse;
mod step;
mod text;

use crate::{ids::CheckpointId, template::TemplateName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use step::{Action, MAX_TIMEOUT_SECONDS, RunCommand, Step};

/// The longest recipe, in bytes.
pub const MAX_RECIPE_BYTES: usize = 1024 * 1024;
/// The most steps of a recipe.
pub const MAX_STEPS: usize = 100;
/// The most services of a template.
pub const MAX_SERVICES: usize = 16;

/// How a template is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// What the template is called, unless whoever builds says otherwise.
    pub name: Option<TemplateName>,
    /// What it is for.
    pub description: String,
    /// A word to look for it by.
    pub category: String,
    /// More words.
    pub tags: Vec<String>,
    /// What the first step starts from.
    pub base: Base,
    /// Variables of the steps' commands and of the template's sandboxes.
    pub environment: BTreeMap<String, String>,
    /// Who commands in the template's sandboxes run as; `None`: as in the base.
    pub user: Option<String>,
    /// What runs in the template's sandboxes from their start; `None`: what the base says.
    pub services: Option<Vec<Service>>,
    /// What is done, in this order.
    pub steps: Vec<Step>,
}

/// What the first step starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// The current version of a template.
    Template(TemplateName),
    /// A checkpoint: its template and what was captured.
    Checkpoint(CheckpointId),
    /// Something on the server's machine, which its operator makes a template of first.
    Host(HostBase),
}

/// Something on the server's machine to start from. Paths are as written: relative ones start at the recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostBase {
    /// A Debian release, from the host's own package sources.
    Debian {
        /// Such as `bookworm`.
        suite: String,
    },
    /// An OCI layout (directory or tar archive), a docker-archive, a root directory or a tar archive of one.
    Source {
        /// The key that named it.
        kind: SourceKind,
        /// Where it is.
        path: String,
        /// Which image of several.
        image: Option<String>,
    },
}

/// What a path on the server's machine is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// An OCI layout.
    Oci,
    /// As `docker save` writes it.
    DockerArchive,
    /// A root directory.
    Directory,
}

/// What runs in a template's sandboxes from their start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name, for people.
    pub name: String,
    /// Program and arguments; not empty.
    pub command: Vec<String>,
    /// Who it runs as; `None`: who commands run as.
    pub user: Option<String>,
    /// Where it starts; `None`: where commands do.
    pub working_dir: Option<String>,
    /// Variables laid over the sandbox's.
    pub env: BTreeMap<String, String>,
}

/// What is wrong with a recipe or went wrong with a step of it, and where in its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}{}: {problem}", .step.map_or_else(String::new, |step| format!(", step {step}")))]
pub struct RecipeError {
    /// From 1 on.
    pub line: usize,
    /// In characters, from 1 on.
    pub column: usize,
    /// Which step it is about, from 1 on.
    pub step: Option<usize>,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl Recipe {
    /// Reads a recipe. Unknown keys are refused, as is everything that could only fail later.
    pub fn parse(text: &str) -> Result<Self, RecipeError> {
        parse::recipe(text)
    }

    /// Whether a step needs files from beside the recipe.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter_map(|step| match &step.action {
            Action::Copy { from, .. } => Some(from.as_str()),
            _ => None,
        })
    }
}

/// Whether a relative path may name a file beside a recipe: no empty, `.` or `..` part, nothing absolute.
pub fn is_plain_relative(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= crate::path::MAX_PATH_BYTES
        && !path.contains('\0')
        && path.split('/').all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255)
}

#[cfg(test)]
mod tests;
