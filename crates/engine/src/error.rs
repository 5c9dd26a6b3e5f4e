//! Why an operation did not happen, in terms every dialect can render.

use crate::ports::{guest::GuestError, records::RecordsError, runtime::RuntimeError};
use forkpoint_domain::{Invalid, recipe::RecipeError};

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation did not happen. Messages are for clients and hold no secrets.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// No, unknown, revoked or expired credential.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The credential does not permit this.
    #[error("this key lacks the scope '{0}'")]
    Forbidden(&'static str),
    /// A recipe is not one, or asks for what is not there.
    #[error("{0}")]
    Recipe(RecipeError),
    /// A step of a recipe failed.
    #[error("{0}")]
    StepFailed(RecipeError),
    /// There is no such object for this caller.
    #[error("{kind} {id} does not exist")]
    NotFound {
        /// What kind of object.
        kind: &'static str,
        /// The id as asked for.
        id: String,
    },
    /// It does not fit the present state; `code` is for programs.
    #[error("{message}")]
    Conflict {
        /// Stable, snake case.
        code: &'static str,
        /// What is in the way and what would be right.
        message: String,
    },
    /// Larger than allowed.
    #[error("{0}")]
    TooLarge(String),
    /// Something inside the sandbox refused.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// Not now; nothing was done.
    #[error("{0}")]
    Unavailable(String),
    /// The host's disk is full; nothing was done.
    #[error("{0}")]
    OutOfSpace(String),
}

impl Error {
    /// A conflict with the present state.
    pub fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::Conflict { code, message: message.into() }
    }

    /// A missing object.
    pub fn not_found(kind: &'static str, id: impl ToString) -> Self {
        Self::NotFound { kind, id: id.to_string() }
    }
}

impl From<RecordsError> for Error {
    fn from(error: RecordsError) -> Self {
        match error {
            RecordsError::Conflict(what) => Self::conflict(
                "conflict",
                format!("another operation changed this at the same time ({what}); try again"),
            ),
            RecordsError::Unavailable(_) | RecordsError::Damaged(_) => {
                tracing::error!(%error, "records failed");
                Self::Unavailable("the database is unavailable; nothing was changed".into())
            }
        }
    }
}

impl From<RuntimeError> for Error {
    fn from(error: RuntimeError) -> Self {
        match error {
            RuntimeError::NotRunning => Self::conflict("sandbox_not_running", "the sandbox is not running"),
            RuntimeError::TooManyFiles { limit } => {
                Self::TooLarge(format!("the captured set has more than {limit} files; exclude some with exclude_paths"))
            }
            RuntimeError::TooLarge { limit } => Self::TooLarge(format!(
                "the captured set is larger than {limit} bytes; exclude some with exclude_paths"
            )),
            RuntimeError::Unfit(problem) => Self::conflict(
                "tree_unfit",
                format!("the sandbox's tree cannot be worked on: {problem}; nothing was changed"),
            ),
            RuntimeError::Stored(problem) => Self::Unavailable(format!(
                "a checkpoint cannot be read from the vault ({problem}); nothing was changed"
            )),
            RuntimeError::NoSpace(_) => {
                tracing::error!(%error, "host disk is full");
                Self::OutOfSpace("the host has no disk space left; nothing was changed".into())
            }
            RuntimeError::NoCapacity(what) => Self::Unavailable(format!("the host is out of capacity: {what}")),
            RuntimeError::Refused { code, problem } => Self::conflict(code, problem),
            RuntimeError::Unsupported(what) => Self::conflict("isolation_unavailable", what),
            RuntimeError::TemplateMissing(template) => Self::conflict(
                "template_missing",
                format!("this server does not have {template}; import it here, or ask the server that has it"),
            ),
            RuntimeError::LayerMissing(_) | RuntimeError::Failed { .. } => {
                tracing::error!(%error, "runtime failed");
                // The problem may name paths of the host: the log has it, the client gets the step.
                let step = if let RuntimeError::Failed { step, .. } = error { step } else { "find layer" };
                Self::Unavailable(format!("the sandbox runtime failed at the step '{step}'; nothing was changed"))
            }
        }
    }
}
