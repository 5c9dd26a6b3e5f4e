//! Template versions that operations in flight are about to use, and those that are being removed.
//!
//! Whoever starts from a template by its name claims the version before the row that names it is there; a version
//! that is being removed cannot be claimed this way. Removal first shuts this door, then looks at claims, at rows,
//! and at claims once more: the second time for those who come by a checkpoint's row, who claim and then read the
//! row again. So whoever needs a version is always seen in one of the places.

use forkpoint_domain::template::TemplateRef;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

#[derive(Debug, Default, Clone)]
pub(crate) struct TemplateClaims {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    counts: HashMap<TemplateRef, usize>,
    leaving: HashSet<TemplateRef>,
}

/// Keeps a version from being removed until dropped.
#[derive(Debug)]
pub(crate) struct TemplateClaim {
    claims: TemplateClaims,
    template: TemplateRef,
}

/// Keeps a version from being claimed by name until dropped.
#[derive(Debug)]
pub(crate) struct Removal {
    claims: TemplateClaims,
    template: TemplateRef,
}

impl TemplateClaims {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims what a name led to; `None` if it is being removed.
    pub(crate) fn claim_by_name(&self, template: &TemplateRef) -> Option<TemplateClaim> {
        let mut state = self.state();
        if state.leaving.contains(template) {
            return None;
        }
        *state.counts.entry(template.clone()).or_default() += 1;
        Some(TemplateClaim { claims: self.clone(), template: template.clone() })
    }

    /// Claims what a row names; the row must be read again afterwards.
    pub(crate) fn claim_by_row(&self, template: &TemplateRef) -> TemplateClaim {
        *self.state().counts.entry(template.clone()).or_default() += 1;
        TemplateClaim { claims: self.clone(), template: template.clone() }
    }

    pub(crate) fn is_claimed(&self, template: &TemplateRef) -> bool {
        self.state().counts.contains_key(template)
    }

    /// Shuts the door; `None` if somebody else is removing it.
    pub(crate) fn begin_removal(&self, template: &TemplateRef) -> Option<Removal> {
        let begun = self.state().leaving.insert(template.clone());
        begun.then(|| Removal { claims: self.clone(), template: template.clone() })
    }
}

impl Drop for TemplateClaim {
    fn drop(&mut self) {
        let mut state = self.claims.state();
        if let Some(count) = state.counts.get_mut(&self.template) {
            *count -= 1;
            if *count == 0 {
                state.counts.remove(&self.template);
            }
        }
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.claims.state().leaving.remove(&self.template);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forkpoint_domain::template::TemplateName;

    #[test]
    fn a_version_that_is_being_removed_cannot_be_claimed_by_name_and_claims_are_counted() {
        let claims = TemplateClaims::default();
        let template = TemplateRef { name: TemplateName::default(), digest: "d".into() };
        let first = claims.claim_by_name(&template).unwrap();
        let second = claims.claim_by_row(&template);
        drop(first);
        assert!(claims.is_claimed(&template));
        drop(second);
        assert!(!claims.is_claimed(&template));
        let removal = claims.begin_removal(&template).unwrap();
        assert!(claims.claim_by_name(&template).is_none() && claims.begin_removal(&template).is_none());
        let by_row = claims.claim_by_row(&template);
        assert!(claims.is_claimed(&template));
        drop((removal, by_row));
        assert!(claims.claim_by_name(&template).is_some());
    }
}
