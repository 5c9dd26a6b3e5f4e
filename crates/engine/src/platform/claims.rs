//! Layers that operations in flight are about to use or have not recorded yet.
//!
//! Collection lists layers, then looks at claims, then reads rows, in this order; an operation claims a
//! layer before it makes it or before it reads the row that names it, and lets go after its commit. So a
//! layer that is about to be named by a row is always seen in one of the two places.

use super::templates::TemplateClaim;
use forkpoint_domain::ids::LayerId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

#[derive(Debug, Default, Clone)]
pub(crate) struct Claims {
    counts: Arc<Mutex<HashMap<LayerId, usize>>>,
}

/// Keeps a layer from being collected until dropped, and the template below it, if that was claimed too.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Claims,
    layer: LayerId,
    _template: Option<TemplateClaim>,
}

impl Claim {
    /// The same claim, and one on the template that the layer lies on.
    pub(crate) fn with_template(mut self, template: TemplateClaim) -> Self {
        self._template = Some(template);
        self
    }
}

impl Claims {
    pub(crate) fn claim(&self, layer: LayerId) -> Claim {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(layer).or_default() += 1;
        Claim { claims: self.clone(), layer, _template: None }
    }

    pub(crate) fn is_claimed(&self, layer: LayerId) -> bool {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&layer)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut counts = self.claims.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.layer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.layer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_layer_stays_claimed_until_the_last_claim_is_dropped() {
        let claims = Claims::default();
        let layer = LayerId::from_uuid(Uuid::from_u128(1));
        let first = claims.claim(layer);
        let second = claims.claim(layer);
        drop(first);
        assert!(claims.is_claimed(layer));
        drop(second);
        assert!(!claims.is_claimed(layer));
    }
}
