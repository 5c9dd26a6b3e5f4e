//! Roots that were made elsewhere: what is taken in, and what is refused.
#![allow(clippy::unwrap_used)]

mod archive;
mod images;
mod kept;
mod place;
mod refused;
