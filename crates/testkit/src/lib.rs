//! Parts for tests: the engine's ports in memory, honest about what they refuse, and a platform made of them.

mod clock;
mod guest;
mod platform;
mod records;
mod runtime;
mod sealer;
mod terminals;
mod tree;

pub use clock::ManualClock;
pub use guest::{FakeGuest, Step};
pub use platform::TestPlatform;
pub use records::MemoryRecords;
pub use runtime::FakeRuntime;
pub use sealer::MarkedSealer;
