//! A proof as JSON: what people print, send and check with other programs.

use super::{InclusionProof, MAX_DEPTH, Step};
use crate::{VaultError, error::Result, tree::RootHash};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Says what the document is.
const FORMAT: &str = "forkpoint inclusion proof 1";

/// One directory on the way. Bytes are lower-case hex.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepText {
    metadata: String,
    entries: u64,
    index: u64,
    entry: String,
    beside: Vec<String>,
}

impl InclusionProof {
    /// The proof as a JSON object, with what it proves of the tree `root`. Refuses a proof that does not hold.
    pub fn to_json(&self, root: RootHash) -> Result<Value> {
        let proven = self.verify(root)?;
        let steps: Vec<StepText> = self
            .steps
            .iter()
            .map(|step| StepText {
                metadata: hex::encode(&step.meta),
                entries: step.count,
                index: step.index,
                entry: hex::encode(&step.entry),
                beside: step.beside.iter().map(hex::encode).collect(),
            })
            .collect();
        Ok(json!({
            "format": FORMAT,
            "checksum": root.to_string(),
            "path": format!("/{}", String::from_utf8_lossy(&proven.path)),
            "file": proven.file.map(|(size, digest)| json!({ "size": size, "digest": hex::encode(digest) })),
            "steps": steps,
        }))
    }

    /// Reads such an object. Only its steps count: what else it says is said again by [`verify`](Self::verify).
    pub fn from_json(value: &Value) -> Result<Self> {
        let malformed = |problem: String| VaultError::Malformed { what: "an inclusion proof", problem };
        if value.get("format").and_then(Value::as_str) != Some(FORMAT) {
            return Err(malformed(format!("its format is not {FORMAT:?}")));
        }
        let steps: Vec<StepText> = serde_json::from_value(value.get("steps").cloned().unwrap_or_default())
            .map_err(|e| malformed(e.to_string()))?;
        if steps.len() > MAX_DEPTH {
            return Err(malformed("it is too deep".into()));
        }
        let bytes = |text: &str| hex::decode(text).map_err(|e| malformed(e.to_string()));
        let mut read = Vec::with_capacity(steps.len());
        for step in &steps {
            if step.beside.len() > 64 {
                return Err(malformed("it has too many hashes".into()));
            }
            let beside = step.beside.iter().map(|text| {
                bytes(text)?.try_into().map_err(|_| malformed("it has a hash that is not 32 bytes".into()))
            });
            read.push(Step {
                meta: bytes(&step.metadata)?,
                count: step.entries,
                index: step.index,
                entry: bytes(&step.entry)?,
                beside: beside.collect::<Result<_>>()?,
            });
        }
        Ok(Self { steps: read })
    }
}
