//! What runs in a sandbox from its start, because its template says so.

use crate::{
    Error, Platform, Result,
    platform::new_uuid,
    ports::{
        guest::{Command, GuestError},
        terminal::TerminalSpec,
    },
};
use forkpoint_domain::{
    Invalid,
    env::Environment,
    ids::{SandboxId, TerminalId},
    path::SandboxPath,
    recipe::Service,
    sandbox::Sandbox,
    template::TemplateRef,
};

/// Bytes of output kept of each service.
const SCROLLBACK: u32 = 256 * 1024;

impl Platform {
    /// Starts the services of a template in a sandbox that was just launched. They are background commands like any
    /// other: listed, attached to and signalled as such, and not started again when they end.
    pub(crate) async fn start_services(&self, id: SandboxId, template: &TemplateRef, env: &Environment) -> Result<()> {
        for service in &*self.inner.runtime.services(template).await? {
            self.start_service(id, service, env).await?;
        }
        Ok(())
    }

    /// The same where the sandbox runs in any case: what does not start is logged.
    pub(crate) async fn start_services_again(&self, sandbox: &Sandbox) {
        let started = async {
            let env = self.sandbox_environment(sandbox).await?;
            self.start_services(sandbox.id, &sandbox.template, &env).await
        };
        if let Err(error) = started.await {
            tracing::warn!(sandbox.id = %sandbox.id, %error, "could not start the services of a sandbox again");
        }
    }

    pub(crate) async fn start_service(&self, id: SandboxId, service: &Service, env: &Environment) -> Result<()> {
        let refused = |problem: String| {
            let message = format!("service '{}' of the template does not start: {problem}", service.name);
            Error::conflict("service_failed", message)
        };
        let over = Environment::parse("env", service.env.clone()).map_err(|invalid| refused(invalid.to_string()))?;
        let directory = service.working_dir.as_deref().map(|dir| SandboxPath::parse("working_dir", dir)).transpose();
        let spec = TerminalSpec {
            id: TerminalId::from_uuid(new_uuid()),
            command: Command::Argv(service.command.clone()),
            env: env.clone().overlaid(&over).as_map().clone(),
            working_dir: directory.map_err(|invalid: Invalid| refused(invalid.to_string()))?,
            user: service.user.clone(),
            timeout_ms: None,
            size: None,
            scrollback: SCROLLBACK,
            linger_ms: None,
        };
        match self.inner.runtime.guest(id)?.open_terminal(spec).await {
            Ok(_) => Ok(()),
            Err(GuestError::Lost(problem)) => {
                Err(Error::Unavailable(format!("the new sandbox does not answer: {problem}")))
            }
            Err(error) => Err(refused(error.to_string())),
        }
    }
}
