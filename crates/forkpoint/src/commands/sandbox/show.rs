//! Sandboxes as tables.

use crate::output::{Cell, Output, text};
use serde_json::Value;
use std::io;

/// All sandboxes of a list, one a line.
pub(crate) fn list(output: Output, answer: &Value) -> io::Result<()> {
    let sandboxes = answer.get("sandboxes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<_> = sandboxes
        .iter()
        .map(|sandbox| {
            vec![
                Cell::Text(id(sandbox)),
                Cell::Text(name(sandbox)),
                Cell::Text(state(sandbox)),
                Cell::text(sandbox, "template"),
                Cell::text(sandbox, "cpus"),
                Cell::text(sandbox, "memory"),
                Cell::time(sandbox, "created_at"),
                Cell::time(sandbox, "expires_at"),
                Cell::text(sandbox, "based_on"),
            ]
        })
        .collect();
    output.table(&["ID", "NAME", "STATE", "TEMPLATE", "CPUS", "MEMORY", "CREATED", "EXPIRES", "BASED ON"], &rows)
}

/// All fields of one object, one a line.
pub(crate) fn fields(output: Output, object: &Value) -> io::Result<()> {
    let rows: Vec<_> = object
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_null())
        .map(|(field, _)| {
            let value = match field.as_str() {
                time if time.ends_with("_at") => Cell::time(object, time),
                size if size.ends_with("_bytes") => Cell::bytes(object, size),
                other => Cell::text(object, other),
            };
            vec![Cell::Text(field.clone()), value]
        })
        .collect();
    output.table(&["FIELD", "VALUE"], &rows)
}

/// A sandbox's id, under whichever name it comes.
pub(crate) fn id(sandbox: &Value) -> String {
    let id = text(sandbox, "sandbox_id");
    if id.is_empty() { text(sandbox, "id") } else { id }
}

/// The fine state, or where the server does not give it, the coarse one.
fn state(sandbox: &Value) -> String {
    let state = text(sandbox, "state");
    if state.is_empty() { text(sandbox, "status") } else { state }
}

/// The name that was given at creation; it is kept among the labels.
pub(crate) fn name(sandbox: &Value) -> String {
    sandbox.get("metadata").map(|metadata| text(metadata, "name")).unwrap_or_default()
}
