//! Running commands in a sandbox, without a query when the sandbox is known to run.

use super::require_running;
use crate::{
    Caller, Error, Platform, Result,
    platform::live::Live,
    ports::{
        guest::{ExecEvent, ExecExit, ExecSpec, Guest, GuestError},
        runtime::RuntimeError,
    },
};
use forkpoint_domain::{Invalid, env::Environment, ids::SandboxId, organization::KeyScope, sandbox::Sandbox};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use std::sync::Arc;

impl Platform {
    /// Starts a command. `spec.env` is laid over the sandbox's environment. Dropping the stream kills the command.
    pub async fn exec(
        &self,
        caller: &Caller,
        id: SandboxId,
        mut spec: ExecSpec,
    ) -> Result<BoxStream<'static, ExecEvent>> {
        caller.require(KeyScope::Write)?;
        let live = self.live(caller, id).await?;
        let over = Environment::parse("env", std::mem::take(&mut spec.env))?;
        spec.env = live.env.clone().overlaid(&over).as_map().clone();
        let guest = self.guest(id)?;
        match guest.exec(spec).await {
            Ok(events) => Ok(events),
            // As a shell would: the command line is wrong, not the request.
            Err(GuestError::NoSuchCommand { message, code }) => Ok(shell_answer(message, code)),
            Err(GuestError::NoSuchUser(message)) => Err(Invalid::new("user", message).into()),
            Err(GuestError::NotFound(message)) => Err(Invalid::new("working_dir", message).into()),
            Err(error) => Err(error.into()),
        }
    }

    /// A running sandbox of the caller.
    pub(crate) async fn live(&self, caller: &Caller, id: SandboxId) -> Result<Arc<Live>> {
        if let Some(live) = self.inner.live.get(id) {
            return if live.org_id == caller.org_id { Ok(live) } else { Err(Error::not_found("sandbox", id)) };
        }
        let sandbox = self.own_sandbox_here(caller, id).await?;
        require_running(&sandbox)?;
        let env = self.sandbox_environment(&sandbox).await?;
        Ok(self.remember_live(&sandbox, env))
    }

    pub(crate) fn remember_live(&self, sandbox: &Sandbox, env: Environment) -> Arc<Live> {
        self.inner.live.put(sandbox.id, Live { org_id: sandbox.org_id, env })
    }

    /// The inside of a sandbox that runs.
    pub(crate) fn guest(&self, id: SandboxId) -> Result<Arc<dyn Guest>> {
        self.inner.runtime.guest(id).map_err(|error| {
            if matches!(error, RuntimeError::NotRunning) {
                self.inner.live.forget(id);
            }
            error.into()
        })
    }

    pub(crate) async fn sandbox_environment(&self, sandbox: &Sandbox) -> Result<Environment> {
        match self.inner.records.sandbox_env(sandbox.id).await? {
            Some(sealed) => self.inner.open_env(&sandbox.id.to_string(), &sealed),
            None => Ok(Environment::default()),
        }
    }
}

fn shell_answer(message: String, code: i32) -> BoxStream<'static, ExecEvent> {
    let exit = ExecExit { code, ..ExecExit::default() };
    stream::iter([ExecEvent::Stderr(format!("{message}\n").into()), ExecEvent::Exit(exit)]).boxed()
}
