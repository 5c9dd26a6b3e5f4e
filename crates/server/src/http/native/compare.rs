//! How two checkpoints differ, as this dialect shows it.

use crate::http::{
    App,
    body::Json,
    error::{ApiError, ApiResult},
    extract::Query,
    patience::patiently,
};
use axum::{Extension, extract::State, http::StatusCode};
use forkpoint_domain::{
    diff::{Attributes, ContentDiff, FileDiff, TextDiff, TreeDiff},
    env::{self, Environment},
    ids::CheckpointId,
};
use forkpoint_engine::{Caller, operations::compare};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Shown instead of a secret value.
const SECRET: &str = "[secret]";

/// Which two to compare.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CompareCheckpoints)]
pub(super) struct CompareBody {
    /// What is compared with.
    #[serde(alias = "checkpointId1")]
    checkpoint_id_1: String,
    /// What is compared.
    #[serde(alias = "checkpointId2")]
    checkpoint_id_2: String,
}

/// How the second of two checkpoints differs from the first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Comparison {
    checkpoint_1: Compared,
    checkpoint_2: Compared,
    diff: Difference,
}

/// One of the two.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Compared {
    #[schema(value_type = String)]
    id: CheckpointId,
    name: String,
}

/// What differs. Paths are absolute and sorted; bytes that are not UTF-8 are replaced. What is not required is there
/// only if it has something to tell.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Difference {
    /// Only in the second.
    files_added: Vec<String>,
    /// Only in the first.
    files_removed: Vec<String>,
    /// In both, with different content.
    files_modified: Vec<String>,
    /// The same as `files_added`.
    added: Vec<String>,
    /// The same as `files_removed`.
    removed: Vec<String>,
    /// The same as `files_modified`.
    modified: Vec<String>,
    /// Removed at one path and added with the same content at another; both paths are in the lists above, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    files_renamed: Vec<RenamedFile>,
    /// With other permission bits; directories too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    files_mode_changed: Vec<ChangedAttribute>,
    /// With another owner or group; directories too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    files_owner_changed: Vec<ChangedAttribute>,
    /// Variables only in the second. Values of secrets show as `[secret]`.
    env_added: BTreeMap<String, String>,
    /// Variables only in the first.
    env_removed: BTreeMap<String, String>,
    /// Variables in both with different values.
    env_modified: BTreeMap<String, ChangedVariable>,
    /// Size of the second minus size of the first.
    size_change_bytes: i64,
    /// Files by line, with `?content=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    contents: Option<Vec<ChangedContent>>,
    /// How many differing files `contents` leaves out, since it has its full size.
    #[serde(skip_serializing_if = "Option::is_none")]
    contents_left_out: Option<u64>,
}

/// A file that is at another path now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RenamedFile {
    from: String,
    to: String,
    size_bytes: u64,
}

/// A file with another mode (octal digits) or owner (user id, colon, group id).
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChangedAttribute {
    path: String,
    #[schema(example = "0644")]
    old: String,
    #[schema(example = "0755")]
    new: String,
}

/// How the content of one file differs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChangedContent {
    path: String,
    /// Null: it is not in the first.
    old_size_bytes: Option<u64>,
    /// Null: it is not in the second.
    new_size_bytes: Option<u64>,
    /// A unified diff with three lines of context; null: see `omitted`.
    diff: Option<String>,
    /// Why there is no `diff`: `binary` (no UTF-8 text), or `too_large` (over 256 KiB).
    #[schema(value_type = Option<String>)]
    omitted: Option<&'static str>,
}

/// A variable whose value changed.
#[derive(Serialize, ToSchema)]
pub(super) struct ChangedVariable {
    old: String,
    new: String,
}

impl std::fmt::Debug for ChangedVariable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChangedVariable(hidden)")
    }
}

impl From<compare::Compared> for Comparison {
    fn from(compare::Compared { first, second, diff }: compare::Compared) -> Self {
        let (added, removed, modified) =
            (shown_all(&diff.files.added), shown_all(&diff.files.removed), shown_all(&diff.files.modified));
        let modified_variables = diff.env.modified.into_iter().map(|(name, change)| {
            let hide = |value| if env::is_secret(&name) { SECRET.to_owned() } else { value };
            let change = ChangedVariable { old: hide(change.old), new: hide(change.new) };
            (name, change)
        });
        Self {
            checkpoint_1: Compared { id: first.id, name: first.name },
            checkpoint_2: Compared { id: second.id, name: second.name },
            diff: Difference {
                files_added: added.clone(),
                files_removed: removed.clone(),
                files_modified: modified.clone(),
                added,
                removed,
                modified,
                files_renamed: diff
                    .files
                    .renamed
                    .iter()
                    .map(|one| RenamedFile { from: shown(&one.from), to: shown(&one.to), size_bytes: one.size })
                    .collect(),
                files_mode_changed: attributes(&diff.files, |one| format!("{:04o}", one.mode)),
                files_owner_changed: attributes(&diff.files, |one| format!("{}:{}", one.uid, one.gid)),
                env_added: variables(&diff.env.added),
                env_removed: variables(&diff.env.removed),
                env_modified: modified_variables.collect(),
                size_change_bytes: diff.size_change_bytes,
                contents_left_out: diff.contents.as_ref().map(|contents| contents.left_out),
                contents: diff
                    .contents
                    .map(|ContentDiff { files, .. }| files.into_iter().map(ChangedContent::from).collect()),
            },
        }
    }
}

impl From<FileDiff> for ChangedContent {
    fn from(FileDiff { path, old_size, new_size, text }: FileDiff) -> Self {
        let (diff, omitted) = match text {
            TextDiff::Unified(text) => (Some(text), None),
            TextDiff::Binary => (None, Some("binary")),
            TextDiff::TooLarge => (None, Some("too_large")),
        };
        Self { path: shown(&path), old_size_bytes: old_size, new_size_bytes: new_size, diff, omitted }
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn shown_all(paths: &[Vec<u8>]) -> Vec<String> {
    paths.iter().map(|path| shown(path)).collect()
}

/// Those that differ in what `of` shows of them.
fn attributes(files: &TreeDiff, of: impl Fn(&Attributes) -> String) -> Vec<ChangedAttribute> {
    files
        .attributes
        .iter()
        .map(|one| ChangedAttribute { path: shown(&one.path), old: of(&one.old), new: of(&one.new) })
        .filter(|one| one.old != one.new)
        .collect()
}

fn variables(env: &Environment) -> BTreeMap<String, String> {
    let hide = |name: &str, value: &str| if env::is_secret(name) { SECRET.to_owned() } else { value.to_owned() };
    env.iter().map(|(name, value)| (name.to_owned(), hide(name, value))).collect()
}

/// Compares two checkpoints
///
/// Files by content: a touch alone is no difference. The two may be of different sandboxes. A checkpoint whose layer
/// is not on this machine is compared by what the vault keeps of it. With `content`, text files of up to 256 KiB are
/// shown by line: at most 1,000 files and 4 MiB, those first in the order of their paths. Values of variables whose
/// names tell that they are secret (`API_KEY`, `DB_PASSWORD`, …) show as `[secret]`.
#[utoipa::path(post, path = "/checkpoints/compare", tag = "checkpoints", request_body = CompareBody,
    params(("content" = Option<bool>, Query, description = "Whether text files are shown by line. Default false")),
    responses((status = 200, description = "How the second differs from the first", body = Comparison),
              (status = 404, description = "One of the two does not exist for this key", body = crate::http::error::ErrorEnvelope)))]
pub(super) async fn compare_checkpoints(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    query: Query,
    Json(body): Json<CompareBody>,
) -> ApiResult {
    let id = |field: &str, text: &str| {
        text.parse::<CheckpointId>().map_err(|invalid| ApiError::invalid(field, invalid.problem))
    };
    let first = id("checkpoint_id_1", &body.checkpoint_id_1)?;
    let second = id("checkpoint_id_2", &body.checkpoint_id_2)?;
    let with_content = query.flag("content")?.unwrap_or(false);
    let platform = app.platform.clone();
    patiently(app.patience(), StatusCode::OK, async move {
        let compared = platform.compare_checkpoints(&caller, first, second, with_content).await?;
        Ok(Comparison::from(compared))
    })
    .await
}
