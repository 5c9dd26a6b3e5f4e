//! Places in a recipe's text.

use super::RecipeError;
use std::ops::Range;

/// A recipe's text, and where its steps begin.
pub(super) struct Text<'a> {
    text: &'a str,
    steps: Vec<usize>,
}

impl<'a> Text<'a> {
    /// Finds the steps' headers. Of a text that is no TOML they are found by their lines.
    pub(super) fn new(text: &'a str) -> Self {
        let mut at = 0;
        let mut steps = Vec::new();
        for line in text.split_inclusive('\n') {
            let bare: String = line.split('#').next().unwrap_or_default().split_whitespace().collect();
            if bare == "[[step]]" {
                steps.push(at);
            }
            at += line.len();
        }
        Self { text, steps }
    }

    /// A problem at a place.
    pub(super) fn error(&self, span: &Range<usize>, problem: impl Into<String>) -> RecipeError {
        let start = self.floor(span.start);
        // A header begins the step; what stands behind the last step's table is found by the caller.
        let step = self.steps.iter().filter(|begin| **begin <= start).count();
        let (line, column) = self.place(start);
        RecipeError { line, column, step: (step > 0).then_some(step), problem: problem.into() }
    }

    /// The same for what belongs to no step.
    pub(super) fn general(&self, span: &Range<usize>, problem: impl Into<String>) -> RecipeError {
        RecipeError { step: None, ..self.error(span, problem) }
    }

    /// Line and column of a byte, from 1 on.
    pub(super) fn place(&self, at: usize) -> (usize, usize) {
        let before = &self.text[..self.floor(at)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    fn floor(&self, at: usize) -> usize {
        self.text.floor_char_boundary(at.min(self.text.len()))
    }
}
