//! Comparing two checkpoints: by their layers where these are here, else by what the vault keeps of them.

use super::require_ready;
use crate::{
    Caller, Error, Platform, Result,
    ports::runtime::{Captured, FoundFile},
};
use forkpoint_domain::{
    checkpoint::{Checkpoint, Durability},
    diff::{CheckpointDiff, ContentDiff, FileDiff, TextDiff, TreeDiff},
    env,
    ids::CheckpointId,
    organization::KeyScope,
    restore::TreeRef,
    scope::Scope,
};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

/// The largest file that is shown by line, in bytes.
pub const MAX_TEXT_BYTES: u64 = 256 * 1024;
/// The most files that are shown by line.
pub const MAX_TEXT_FILES: usize = 1000;
/// How many bytes of differences by line one answer has at most, but for the last file's.
pub const MAX_DIFF_BYTES: usize = 4 * 1024 * 1024;
/// How long finding differences by line may take, for one file and for all; what is not found by then is shown
/// coarser, or left out.
const FILE_TIME: Duration = Duration::from_millis(500);
const WHOLE_TIME: Duration = Duration::from_secs(10);
/// Files that are in memory at a time.
const BATCH: usize = 32;

/// Two checkpoints and what differs.
#[derive(Debug)]
pub struct Compared {
    /// What was compared with.
    pub first: Checkpoint,
    /// What was compared.
    pub second: Checkpoint,
    /// How the second differs from the first.
    pub diff: CheckpointDiff,
}

impl Platform {
    /// How the second checkpoint differs from the first; `with_content`: text files by line, too.
    pub async fn compare_checkpoints(
        &self,
        caller: &Caller,
        first: CheckpointId,
        second: CheckpointId,
        with_content: bool,
    ) -> Result<Compared> {
        caller.require(KeyScope::Read)?;
        let (platform, caller) = (self.clone(), caller.clone());
        // To the end: what is claimed stays as long as it is read, whether anybody waits for the answer or not.
        self.to_the_end(async move { platform.compare_claimed(&caller, first, second, with_content).await }).await
    }

    async fn compare_claimed(
        &self,
        caller: &Caller,
        first: CheckpointId,
        second: CheckpointId,
        with_content: bool,
    ) -> Result<Compared> {
        let (first, _claim_first) = self.claimed_checkpoint(caller, first).await?;
        let (second, _claim_second) = self.claimed_checkpoint(caller, second).await?;
        require_ready(&first)?;
        require_ready(&second)?;
        let (mut files, mut contents) = (TreeDiff::default(), with_content.then(ContentDiff::default));
        if !surely_alike(&first, &second) {
            let trees = [self.captured(&first).await?, self.captured(&second).await?];
            files = self.inner.runtime.compare(&trees[0], &trees[1]).await?;
            if with_content {
                contents = Some(self.compare_contents(&trees, &files).await?);
            }
        }
        let env_first = self.checkpoint_environment(&first).await?.unwrap_or_default();
        let env_second = self.checkpoint_environment(&second).await?.unwrap_or_default();
        let diff = CheckpointDiff {
            files,
            env: env::diff(&env_first, &env_second),
            size_change_bytes: second.size_bytes as i64 - first.size_bytes as i64,
            contents,
        };
        Ok(Compared { first, second, diff })
    }

    /// Where a checkpoint's tree is read. The caller holds a claim on its layer.
    async fn captured(&self, checkpoint: &Checkpoint) -> Result<Captured> {
        let tree = TreeRef { template: checkpoint.template.clone(), layer: Some(checkpoint.layer) };
        let scope = Arc::new(Scope::parse(checkpoint.scope.clone())?);
        if self.layer_is_here(checkpoint.layer).await? {
            return Ok(Captured { tree, scope, stored: None });
        }
        let is_stored = matches!(checkpoint.durability, Durability::Durable | Durability::Verified);
        let Some(vault) = self.inner.vault.as_ref().filter(|_| is_stored) else {
            return Err(Error::Unavailable(format!(
                "the layer of checkpoint {} is not on this machine and not in a vault; nothing was changed",
                checkpoint.id
            )));
        };
        let stored = vault.browse(checkpoint.org_id, checkpoint.id).await;
        Ok(Captured { tree, scope, stored: Some(stored.map_err(|failure| self.unreadable(checkpoint, &failure))?) })
    }

    async fn compare_contents(&self, [first, second]: &[Captured; 2], files: &TreeDiff) -> Result<ContentDiff> {
        let moved: BTreeSet<&[u8]> =
            files.renamed.iter().flat_map(|one| [one.from.as_slice(), one.to.as_slice()]).collect();
        let mut paths: Vec<Vec<u8>> = [&files.added, &files.removed, &files.modified]
            .into_iter()
            .flatten()
            .filter(|path| !moved.contains(path.as_slice()))
            .cloned()
            .collect();
        paths.sort_unstable();
        let (began, mut found, mut bytes) = (Instant::now(), ContentDiff::default(), 0);
        let wanted = paths.len().min(MAX_TEXT_FILES);
        for batch in paths[..wanted].chunks(BATCH) {
            if bytes >= MAX_DIFF_BYTES || began.elapsed() >= WHOLE_TIME {
                break;
            }
            let old = self.inner.runtime.read_files(first, batch.to_vec(), MAX_TEXT_BYTES).await?;
            let new = self.inner.runtime.read_files(second, batch.to_vec(), MAX_TEXT_BYTES).await?;
            let files: Vec<_> = batch.iter().cloned().zip(old.into_iter().zip(new)).collect();
            let room = MAX_DIFF_BYTES - bytes;
            let compared = tokio::task::spawn_blocking(move || by_line(files, room, began)).await;
            let compared =
                compared.map_err(|_| Error::Unavailable("comparing files by line was interrupted".into()))?;
            bytes += compared.iter().map(shown_bytes).sum::<usize>();
            found.files.extend(compared);
        }
        found.left_out = (paths.len() - found.files.len()) as u64;
        Ok(found)
    }
}

/// Whether nothing needs to be read to know that two captured sets are the same.
fn surely_alike(first: &Checkpoint, second: &Checkpoint) -> bool {
    let same_tree = first.layer == second.layer || (!first.checksum.is_empty() && first.checksum == second.checksum);
    same_tree && first.scope == second.scope && first.template == second.template
}

type Pair = (Option<FoundFile>, Option<FoundFile>);

/// Compares files until there is no more room or time.
fn by_line(files: Vec<(Vec<u8>, Pair)>, mut room: usize, began: Instant) -> Vec<FileDiff> {
    let mut compared = Vec::with_capacity(files.len());
    for (path, (old, new)) in files {
        if room == 0 || began.elapsed() >= WHOLE_TIME {
            break;
        }
        let text = text_diff(&path, old.as_ref(), new.as_ref());
        let one = FileDiff { path, old_size: old.map(|file| file.size), new_size: new.map(|file| file.size), text };
        room = room.saturating_sub(shown_bytes(&one));
        compared.push(one);
    }
    compared
}

fn shown_bytes(file: &FileDiff) -> usize {
    match &file.text {
        TextDiff::Unified(text) => text.len(),
        TextDiff::Binary | TextDiff::TooLarge => 0,
    }
}

fn text_diff(path: &[u8], old: Option<&FoundFile>, new: Option<&FoundFile>) -> TextDiff {
    if [old, new].into_iter().flatten().any(|file| file.content.is_none()) {
        return TextDiff::TooLarge;
    }
    let text = |file: Option<&FoundFile>| {
        let bytes = file.and_then(|file| file.content.as_deref()).unwrap_or_default();
        std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).map(str::to_owned)
    };
    // A symbolic link on either side has no lines.
    let (Some(before), Some(after)) = (text(old), text(new)) else { return TextDiff::Binary };
    if old.is_none() && new.is_none() {
        return TextDiff::Binary;
    }
    let path = String::from_utf8_lossy(path);
    let name = |side: &str, file: Option<&FoundFile>| match file {
        Some(_) => format!("{side}{path}"),
        None => "/dev/null".to_owned(),
    };
    let diff = similar::TextDiff::configure().timeout(FILE_TIME).diff_lines(&before, &after);
    TextDiff::Unified(diff.unified_diff().context_radius(3).header(&name("a", old), &name("b", new)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> Option<FoundFile> {
        Some(FoundFile { size: content.len() as u64, content: Some(content.to_vec()) })
    }

    #[test]
    fn text_is_shown_by_line_and_nothing_else_is() {
        let shown = text_diff(b"/w/a", file(b"one\ntwo\n").as_ref(), file(b"one\n2\n").as_ref());
        assert_eq!(shown, TextDiff::Unified("--- a/w/a\n+++ b/w/a\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n".into()));
        let TextDiff::Unified(added) = text_diff(b"/w/a", None, file(b"new").as_ref()) else { panic!("not text") };
        assert!(added.starts_with("--- /dev/null\n+++ b/w/a\n") && added.contains("+new"), "{added}");
        for binary in [&b"\xff"[..], b"a\0b"] {
            assert_eq!(text_diff(b"/w/a", file(binary).as_ref(), file(b"x").as_ref()), TextDiff::Binary);
        }
        let large = Some(FoundFile { size: MAX_TEXT_BYTES + 1, content: None });
        assert_eq!(text_diff(b"/w/a", large.as_ref(), None), TextDiff::TooLarge);
    }

    #[test]
    fn an_answer_has_bounded_differences_by_line() {
        let text = |seed: usize| {
            let lines: String = (0..20_000).map(|line| format!("{}\n", line * 7 + seed)).collect();
            file(&lines.as_bytes()[..lines.len().min(MAX_TEXT_BYTES as usize)])
        };
        let files: Vec<_> = (0..20).map(|n| (format!("/{n}").into_bytes(), (text(1), text(2)))).collect();
        let room = 1 << 20;
        let compared = by_line(files, room, Instant::now());
        let bytes: usize = compared.iter().map(shown_bytes).sum();
        assert!(compared.len() < 20 && (room..room + 4 * MAX_TEXT_BYTES as usize).contains(&bytes), "{bytes}");
    }
}
