//! The one error of the domain: a value that breaks a rule.

use std::fmt;

/// A value was refused: which field, and what would have been right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Name of the field as clients write it, e.g. `timeout_seconds`.
    pub field: String,
    /// What is wrong and what would be right, without a final full stop.
    pub problem: String,
}

impl Invalid {
    /// Makes a refusal of `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl std::error::Error for Invalid {}
