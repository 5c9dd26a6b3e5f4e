//! What the engine needs of the world. Each port speaks domain types only.

pub mod clock;
pub mod guest;
pub mod portable;
pub mod records;
pub mod runtime;
pub mod sealer;
pub mod templates;
pub mod terminal;
pub mod vault;
pub mod watch;
