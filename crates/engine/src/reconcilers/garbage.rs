//! Removes layers that nothing names.

use crate::{
    Platform,
    failpoint::{Point, pass},
};
use forkpoint_domain::ids::LayerId;
use std::collections::HashSet;

impl Platform {
    /// Removes every layer that no row and no operation in flight needs.
    pub(crate) async fn collect_garbage(&self) {
        match self.inner.runtime.layers().await {
            Ok(layers) => self.drop_unused_layers(layers).await,
            Err(error) => tracing::warn!(%error, "could not list layers"),
        }
    }

    /// Removes those of these layers that no row and no operation in flight needs.
    ///
    /// The order matters, see `platform/claims.rs`: the layers are known, then claims, then rows.
    pub(crate) async fn drop_unused_layers(&self, layers: Vec<LayerId>) {
        let unclaimed: Vec<LayerId> =
            layers.into_iter().filter(|layer| !self.inner.claims.is_claimed(*layer)).collect();
        if unclaimed.is_empty() {
            return;
        }
        let used: HashSet<LayerId> = match self.inner.records.layers_in_use().await {
            Ok(used) => used.into_iter().collect(),
            Err(error) => return tracing::warn!(%error, "could not list the layers in use"),
        };
        for layer in unclaimed.into_iter().filter(|layer| !used.contains(layer)) {
            pass(Point::CollectChosen);
            let dropped = self.inner.runtime.drop_layer(layer).await;
            pass(Point::CollectDropped);
            match dropped {
                Ok(()) => tracing::debug!(layer.id = %layer, "removed a layer"),
                Err(error) => tracing::warn!(layer.id = %layer, %error, "could not remove a layer"),
            }
        }
    }
}
