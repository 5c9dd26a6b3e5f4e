//! A platform of parts in memory.

use crate::{FakeRuntime, ManualClock, MarkedSealer, MemoryRecords};
use forkpoint_engine::{Caller, Platform, Settings, operations::accounts::Registration};
use std::sync::Arc;

/// A platform, and the parts it is made of.
#[derive(Debug, Clone)]
pub struct TestPlatform {
    /// The engine.
    pub platform: Platform,
    /// Its records.
    pub records: Arc<MemoryRecords>,
    /// Its runtime.
    pub runtime: FakeRuntime,
    /// Its clock.
    pub clock: Arc<ManualClock>,
}

impl Default for TestPlatform {
    fn default() -> Self {
        Self::with(Settings::default())
    }
}

impl TestPlatform {
    /// A platform with these settings and nothing in it.
    pub fn with(settings: Settings) -> Self {
        let (records, runtime, clock) =
            (Arc::new(MemoryRecords::default()), FakeRuntime::default(), Arc::new(ManualClock::default()));
        let platform =
            Platform::new(records.clone(), Arc::new(runtime.clone()), Arc::new(MarkedSealer), clock.clone(), settings);
        Self { platform, records, runtime, clock }
    }

    /// Registers an organisation; gives its key's text and who it proves to be.
    pub async fn register(&self, name: &str) -> (String, Caller) {
        let registration = Registration {
            organization_name: name.to_owned(),
            email: "dev@example.com".to_owned(),
            first_name: None,
            last_name: None,
        };
        match self.platform.register(registration).await {
            Ok(made) => {
                let key = made.key.key;
                (made.key.text.to_string(), Caller { org_id: key.org_id, key_id: key.id, scopes: key.scopes })
            }
            Err(error) => panic!("registering {name} failed: {error}"),
        }
    }
}
