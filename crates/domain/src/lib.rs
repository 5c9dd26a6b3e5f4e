//! The nouns and rules of Forkpoint: pure values, no I/O, no async, no clock but what is passed in.

pub mod checkpoint;
pub mod diff;
pub mod env;
pub mod event;
pub mod ids;
pub mod invalid;
pub mod limits;
pub mod lineage;
pub mod organization;
pub mod path;
pub mod recipe;
pub mod restore;
pub mod sandbox;
pub mod scope;
pub mod server;
pub mod stored;
pub mod template;

pub use invalid::Invalid;
