//! Rebuilds the crate when a migration file is added: the macro that embeds them sees only those it knew.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
