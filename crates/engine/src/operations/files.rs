//! Files inside a running sandbox.

use crate::{
    Caller, Platform, Result,
    ports::{
        guest::{ByteStream, FileContent, FileEntry, Guest, Listing},
        watch::Watch,
    },
};
use forkpoint_domain::{ids::SandboxId, organization::KeyScope, path::SandboxPath};
use std::sync::Arc;

impl Platform {
    /// Opens a file for reading.
    pub async fn read_file(
        &self,
        caller: &Caller,
        id: SandboxId,
        path: &SandboxPath,
        offset: u64,
        length: Option<u64>,
    ) -> Result<FileContent> {
        Ok(self.inside(caller, id, KeyScope::Read).await?.read(path, offset, length).await?)
    }

    /// Writes a whole file; parent directories are made.
    pub async fn write_file(
        &self,
        caller: &Caller,
        id: SandboxId,
        path: &SandboxPath,
        mode: Option<u32>,
        content: ByteStream,
    ) -> Result<FileEntry> {
        Ok(self.inside(caller, id, KeyScope::Write).await?.write(path, mode, content).await?)
    }

    /// Looks at one path.
    pub async fn stat_file(&self, caller: &Caller, id: SandboxId, path: &SandboxPath) -> Result<FileEntry> {
        Ok(self.inside(caller, id, KeyScope::Read).await?.stat(path).await?)
    }

    /// Lists a directory.
    pub async fn list_files(
        &self,
        caller: &Caller,
        id: SandboxId,
        path: &SandboxPath,
        recursive: bool,
    ) -> Result<Listing> {
        Ok(self.inside(caller, id, KeyScope::Read).await?.list(path, recursive).await?)
    }

    /// Finds files by pattern.
    pub async fn glob_files(&self, caller: &Caller, id: SandboxId, pattern: &SandboxPath) -> Result<Listing> {
        Ok(self.inside(caller, id, KeyScope::Read).await?.glob(pattern.as_str()).await?)
    }

    /// Makes a directory.
    pub async fn make_directory(
        &self,
        caller: &Caller,
        id: SandboxId,
        path: &SandboxPath,
        recursive: bool,
    ) -> Result<()> {
        Ok(self.inside(caller, id, KeyScope::Write).await?.make_directory(path, recursive).await?)
    }

    /// Moves a file or tree.
    pub async fn move_file(&self, caller: &Caller, id: SandboxId, from: &SandboxPath, to: &SandboxPath) -> Result<()> {
        Ok(self.inside(caller, id, KeyScope::Write).await?.rename(from, to).await?)
    }

    /// Copies a file or tree.
    pub async fn copy_file(&self, caller: &Caller, id: SandboxId, from: &SandboxPath, to: &SandboxPath) -> Result<()> {
        Ok(self.inside(caller, id, KeyScope::Write).await?.copy(from, to).await?)
    }

    /// Watches a file or directory; what happens from now on is told until the watch is dropped.
    pub async fn watch_files(
        &self,
        caller: &Caller,
        id: SandboxId,
        path: &SandboxPath,
        recursive: bool,
    ) -> Result<Watch> {
        Ok(self.inside(caller, id, KeyScope::Read).await?.watch(path, recursive).await?)
    }

    /// Removes a file or tree.
    pub async fn remove_file(&self, caller: &Caller, id: SandboxId, path: &SandboxPath, recursive: bool) -> Result<()> {
        Ok(self.inside(caller, id, KeyScope::Write).await?.remove(path, recursive).await?)
    }

    async fn inside(&self, caller: &Caller, id: SandboxId, scope: KeyScope) -> Result<Arc<dyn Guest>> {
        caller.require(scope)?;
        self.live(caller, id).await?;
        self.guest(id)
    }
}
