//! Whole files in JSON, their content in base64.

use super::{EntryView, parse_mode};
use crate::http::{
    App,
    body::{Json, MAX_BODY_BYTES, STEP},
    error::{ApiError, ApiResult, Code},
    extract::{Id, Query},
    memory::{FREE, Share},
    patience::{json, patiently},
};
use axum::{Extension, body::Bytes, extract::State, http::StatusCode};
use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use forkpoint_domain::{ids::SandboxId, path::SandboxPath};
use forkpoint_engine::{Caller, ports::guest::FileContent};
use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Standard base64, padded or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Files to write.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WriteFiles)]
pub(in super::super) struct WriteBody {
    /// Written in this order.
    files: Vec<FileBody>,
}

/// One file to write.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WriteFile)]
pub(in super::super) struct FileBody {
    /// Absolute path; parent directories are made.
    path: String,
    /// Its bytes in base64, or text if `encoding` says so.
    content: String,
    /// Permission bits in octal, e.g. `0755`; default: those of the file that is there, else `0644`.
    mode: Option<String>,
    /// `base64` (default) or `utf-8`.
    #[schema(default = "base64")]
    encoding: Option<String>,
}

/// What was written.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct WrittenFiles {
    /// Always true here.
    success: bool,
    files: Vec<EntryView>,
}

/// A whole file.
#[derive(Serialize, ToSchema)]
#[schema(as = FileContent)]
pub(in super::super) struct ContentView {
    /// Its bytes in base64.
    content: String,
    /// `base64`.
    #[schema(value_type = String)]
    encoding: &'static str,
    #[serde(flatten)]
    entry: EntryView,
}

struct ToWrite {
    path: SandboxPath,
    mode: Option<u32>,
    content: Bytes,
}

impl FileBody {
    fn read(self, index: usize) -> ApiResult<ToWrite> {
        let field = |name: &str| format!("files[{index}].{name}");
        let path = SandboxPath::parse(&field("path"), &self.path)?;
        let mode = self.mode.as_deref().map(|mode| parse_mode(&field("mode"), mode)).transpose()?;
        let content = match self.encoding.as_deref() {
            None | Some("base64") => {
                let mut content = self.content;
                // Tools that write base64 break it into lines.
                content.retain(|letter| !letter.is_ascii_whitespace());
                BASE64.decode(content).map_err(|error| {
                    let problem = format!("is not valid base64 ({error}); for plain text add \"encoding\": \"utf-8\"");
                    ApiError::invalid(field("content"), problem)
                })?
            }
            Some("utf-8" | "utf8") => self.content.into_bytes(),
            Some(_) => return Err(ApiError::invalid(field("encoding"), "must be base64 or utf-8")),
        };
        Ok(ToWrite { path, mode, content: content.into() })
    }
}

/// Writes files
///
/// Each one whole or not at all; nothing is written if one of them breaks a rule. Larger ones: `PUT …/files/raw`.
#[utoipa::path(post, path = "/sandbox/{id}/files", tag = "files", params(("id" = String, Path, description = "Sandbox id")),
    request_body = WriteBody,
    responses((status = 200, description = "They are written", body = WrittenFiles)))]
pub(in super::super) async fn write_files(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
    Json(body): Json<WriteBody>,
) -> ApiResult {
    let files =
        body.files.into_iter().enumerate().map(|(index, file)| file.read(index)).collect::<ApiResult<Vec<_>>>()?;
    let platform = app.platform.clone();
    patiently(app.patience(), StatusCode::OK, async move {
        let mut written = Vec::with_capacity(files.len());
        for (index, file) in files.into_iter().enumerate() {
            let content = stream::iter([Ok(file.content)]).boxed();
            let entry = platform.write_file(&caller, id, &file.path, file.mode, content).await.map_err(|error| {
                ApiError::from(error).detail("field", format!("files[{index}].path")).detail("files_written", index)
            })?;
            written.push(entry.into());
        }
        Ok(WrittenFiles { success: true, files: written })
    })
    .await
}

/// Reads a file
///
/// Whole and in base64; files over 64 MiB only raw: `GET …/files/raw`.
#[utoipa::path(get, path = "/sandbox/{id}/files", tag = "files",
    params(("id" = String, Path, description = "Sandbox id"), ("path" = String, Query, description = "Absolute path of a regular file")),
    responses((status = 200, description = "Its content", body = ContentView)))]
pub(in super::super) async fn read_file(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Id(id): Id<SandboxId>,
    Extension(share): Extension<Share>,
    query: Query,
) -> ApiResult {
    let path = SandboxPath::parse("path", query.required("path")?)?;
    let platform = app.platform.clone();
    patiently(app.patience(), StatusCode::OK, async move {
        let file = platform.read_file(&caller, id, &path, 0, None).await?;
        let mut entry = file.entry.clone();
        let content = whole(file, &share).await?;
        entry.size = content.len() as u64;
        Ok(ContentView { content: BASE64.encode(content), encoding: "base64", entry: entry.into() })
    })
    .await
}

/// Reads all of a file within the limit, whatever size it claims.
async fn whole(mut file: FileContent, share: &Share) -> ApiResult<Vec<u8>> {
    let too_large = || {
        let message = format!("the file is larger than {MAX_BODY_BYTES} bytes; read it raw with GET …/files/raw");
        ApiError::new(Code::TooLarge, message).detail("limit_bytes", MAX_BODY_BYTES)
    };
    if file.entry.size > MAX_BODY_BYTES as u64 {
        return Err(too_large());
    }
    // Its bytes, the same in base64, and that in JSON.
    let mut room = (file.entry.size as usize).max(FREE);
    if file.entry.size > FREE as u64 {
        share.take(4 * room).await?;
    }
    let mut bytes = Vec::with_capacity(file.entry.size as usize);
    while let Some(piece) = file.content.next().await {
        let piece =
            piece.map_err(|error| ApiError::conflict("sandbox_unreachable", format!("reading broke off: {error}")))?;
        if bytes.len() + piece.len() > MAX_BODY_BYTES {
            return Err(too_large());
        }
        if bytes.len() + piece.len() > room {
            share.take(4 * STEP).await?;
            room += STEP;
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Lists what was found.
pub(super) fn listing(listing: forkpoint_engine::ports::guest::Listing) -> axum::response::Response {
    let files = listing.entries.into_iter().map(EntryView::from).collect();
    json(StatusCode::OK, &super::tree::FileList { files, truncated: listing.truncated })
}
