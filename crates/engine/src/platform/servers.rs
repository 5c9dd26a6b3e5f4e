//! Several servers on one database: what is whose, and who does the work that anybody may do.
//!
//! Processes and layers are on one machine, so a sandbox is its server's alone: that one changes it, stops it in time
//! and brings it in step with its row. Work that needs no machine of its own is claimed by a lease that runs out: a
//! server that dies in the middle keeps nobody from it for longer than that. Clocks must agree within seconds.

use crate::{
    Error, Platform, Result,
    ports::records::{Change, RecordsError, SandboxFilter},
};
use forkpoint_domain::{
    checkpoint::Checkpoint,
    sandbox::Sandbox,
    server::{LEASE, Server, ServerId},
};
use std::time::Duration;

/// How often a lease is renewed while its work goes on, and a server's sign of life.
pub(crate) const RENEW_EVERY: Duration = Duration::from_secs(5);

impl Platform {
    /// Which server this is.
    pub(crate) fn here(&self) -> ServerId {
        self.inner.settings.server
    }

    /// Only what is on this server.
    pub(crate) fn own(&self) -> SandboxFilter {
        SandboxFilter { server: Some(self.here()), ..SandboxFilter::default() }
    }

    /// Tells other servers that this one is there, and takes rows that are nobody's. To be called once, before
    /// [`recover`](Self::recover).
    pub async fn enroll(&self, host: &str, address: &str) -> Result<()> {
        self.announce(host, address).await?;
        Ok(self.inner.records.commit(vec![Change::AdoptRows { server: self.here() }]).await?)
    }

    /// Tells other servers that this one lives.
    pub(crate) async fn announce(&self, host: &str, address: &str) -> Result<()> {
        let alive_until = self.inner.clock.now() + LEASE;
        let server = Server { id: self.here(), host: host.to_owned(), address: address.to_owned(), alive_until };
        Ok(self.inner.records.commit(vec![Change::SeeServer(server)]).await?)
    }

    /// Refuses what only another server can do, and names that one.
    pub(crate) async fn require_here(&self, sandbox: &Sandbox) -> Result<()> {
        if sandbox.server == self.here() {
            return Ok(());
        }
        let which = self.describe_server(sandbox.server).await?;
        let message = format!("sandbox {} is on {which}, not on this one; ask that one", sandbox.id);
        Err(Error::conflict("sandbox_on_another_server", message))
    }

    /// Why something cannot be done with a checkpoint whose files only another server has.
    pub(crate) async fn on_another_server(&self, checkpoint: &Checkpoint) -> Result<Error> {
        let which = self.describe_server(checkpoint.server).await?;
        let message = format!(
            "the files of checkpoint {} are on {which}, and not yet in a vault that this server shares; ask that one",
            checkpoint.id
        );
        Ok(Error::conflict("checkpoint_on_another_server", message))
    }

    /// Another server in words.
    pub(crate) async fn describe_server(&self, id: ServerId) -> Result<String> {
        Ok(match self.inner.records.server(id).await? {
            Some(server) => {
                let life = if server.is_alive(self.inner.clock.now()) { "" } else { ", which does not answer now" };
                format!("server {id} ({} on {}{life})", server.address, server.host)
            }
            None => format!("server {id}"),
        })
    }

    /// Whether a server gave a sign of life lately.
    pub(crate) async fn is_alive(&self, id: ServerId) -> Result<bool> {
        Ok(self.inner.records.server(id).await?.is_some_and(|server| server.is_alive(self.inner.clock.now())))
    }

    /// Does a job unless another server is at it: `None` then. The claim is renewed as long as the work goes on; when
    /// it was lost all the same, the work ends where it is.
    pub(crate) async fn leased<T>(&self, job: &str, work: impl Future<Output = T>) -> Result<Option<T>> {
        if !self.inner.records.is_shared() {
            return Ok(Some(work.await));
        }
        if !self.claim_job(job).await? {
            return Ok(None);
        }
        tokio::pin!(work);
        let mut claimed = tokio::time::Instant::now();
        loop {
            tokio::select! {
                done = &mut work => {
                    // Given back already if the work recorded its result with it; else it runs out by itself.
                    let end = Change::EndLease { job: job.to_owned(), holder: self.here() };
                    let _ = self.inner.records.commit(vec![end]).await;
                    return Ok(Some(done));
                }
                () = tokio::time::sleep(RENEW_EVERY) => match self.claim_job(job).await {
                    Ok(true) => claimed = tokio::time::Instant::now(),
                    Ok(false) => {
                        tracing::warn!(job, "another server has taken this over");
                        return Ok(None);
                    }
                    Err(error) if claimed.elapsed() > LEASE.unsigned_abs() => {
                        tracing::warn!(job, %error, "a claim ran out that could not be renewed; others may have it now");
                        return Ok(None);
                    }
                    Err(error) => tracing::warn!(job, %error, "could not renew a claim"),
                },
            }
        }
    }

    async fn claim_job(&self, job: &str) -> Result<bool> {
        let now = self.inner.clock.now();
        let take = Change::TakeLease { job: job.to_owned(), holder: self.here(), now, until: now + LEASE };
        match self.inner.records.commit(vec![take]).await {
            Ok(()) => Ok(true),
            Err(RecordsError::Conflict(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What records a job's result only if the job is still this server's.
    pub(crate) fn end_of_job(&self, job: &str) -> Change {
        Change::EndLease { job: job.to_owned(), holder: self.here() }
    }
}
