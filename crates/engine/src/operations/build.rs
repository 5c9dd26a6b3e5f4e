//! Building a template by its recipe.
//!
//! Every step runs in a sandbox of its own, made from what the step before left, and ends as a checkpoint with the
//! step's key; the last one is published. Equal keys stand for equal outcomes, so a build begins behind the last step
//! whose outcome is still there. A step's sandbox carries its build's name as a label: what no build in progress
//! names is removed by a reconciler, as after a crash.

mod actions;
mod events;
mod keys;
mod plan;

use super::{
    checkpoints::{CreateCheckpoint, StepOutcome},
    create::{CreateSandbox, Origin},
    templates::env_context,
};
use crate::{
    Caller, Error, Platform, Result,
    failpoint::{Point, pass},
    platform::claims::Claim,
    ports::{
        records::{Change, CheckpointFilter},
        templates::{NewTemplate, TemplateInfo},
    },
};
use actions::Patience as _;
pub use events::BuildEvent;
use events::Teller;
use forkpoint_domain::{
    checkpoint::{Checkpoint, CheckpointStatus},
    env::Environment,
    ids::SandboxId,
    organization::KeyScope,
    recipe::{Recipe, RecipeError},
    restore::TreeRef,
    sandbox::Sandbox,
    scope::ScopeSpec,
    template::TemplateName,
};
use futures::{StreamExt as _, stream::BoxStream};
use jiff::SignedDuration;
use plan::Build;
use serde_json::{Map, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// The label of a step's sandbox that names its build.
pub(crate) const BUILD_LABEL: &str = "forkpoint.build";
/// How long the outcome of a step is kept when nobody uses it.
const KEPT: SignedDuration = SignedDuration::from_hours(24 * 30);
/// Events that may wait for a client before the build waits for it.
const AHEAD: usize = 64;

/// What is to be built.
#[derive(Debug, Clone)]
pub struct BuildTemplate {
    /// How.
    pub recipe: Recipe,
    /// What the template is called; `None`: as the recipe says.
    pub name: Option<TemplateName>,
    /// A template to start from instead of the recipe's base, which is on the server's machine.
    pub base: Option<TemplateName>,
    /// What lies beside the recipe, by relative path.
    pub files: BTreeMap<String, RecipeFile>,
    /// Whether outcomes of earlier builds may stand for steps.
    pub use_cache: bool,
    /// Whether the build goes on when nobody listens any more.
    pub keep_going: bool,
    /// Processor share of each step, in thousandths of a CPU.
    pub cpu_millis: Option<u32>,
    /// Memory of each step in bytes.
    pub memory_bytes: Option<u64>,
}

/// Something that lies beside a recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipeFile {
    /// A directory, which may be empty.
    Directory,
    /// A file.
    File {
        /// What is in it.
        content: bytes::Bytes,
        /// Its permission bits.
        mode: u32,
    },
}

/// What the next step starts from.
enum Start {
    Base,
    /// The claim is held, not read.
    Step(Box<Checkpoint>, #[allow(dead_code)] Claim),
}

impl Platform {
    /// Builds a template and tells how it goes, ending with `Done` or `Failed`. What is wrong with the request is
    /// refused before anything is done. Dropping the events ends the build after the moment's work, unless it is to
    /// keep going; what its finished steps left serves the next one.
    pub async fn build_template(
        &self,
        caller: &Caller,
        request: BuildTemplate,
    ) -> Result<BoxStream<'static, BuildEvent>> {
        caller.require(KeyScope::Write)?;
        let build = self.plan_build(caller, request).await?;
        let place = self.inner.builds.begin(build.caller.org_id, build.id)?;
        let (events, listener) = mpsc::channel(AHEAD);
        let teller = Teller::new(events, build.keep_going, self.inner.builds.clone());
        let platform = self.clone();
        self.behind(async move {
            let outcome = platform.run_build(&build, &teller).await;
            // Nothing of it is left by now but what its steps left.
            drop(place);
            platform.bound_build_cache().await;
            match outcome {
                Ok(done) => teller.tell(done).await,
                Err(error) => {
                    tracing::info!(build.id = %build.id, %error, "build ended without a template");
                    teller.tell(BuildEvent::Failed(error)).await;
                }
            }
        });
        Ok(ReceiverStream::new(listener).boxed())
    }

    async fn run_build(&self, build: &Build, teller: &Teller) -> Result<BuildEvent> {
        let started = Instant::now();
        let of = build.steps.len();
        teller.tell(BuildEvent::Begun { build: build.id, template: build.name.clone(), steps: of }).await;
        let turn = self.inner.builds.turn(build.caller.org_id, &build.name);
        let _turn: crate::platform::builds::Turn = match turn.clone().try_lock_owned() {
            Ok(turn) => turn,
            Err(_) => {
                teller.tell(BuildEvent::Waiting).await;
                teller.unless_ended(turn.lock_owned()).await?
            }
        };
        let known = if build.use_cache { self.built_before(build).await? } else { None };
        let (mut start, mut done) = match build.use_cache {
            true => self.cached_steps(build).await?,
            false => (Start::Base, 0),
        };
        if known.is_some() {
            // The template itself stands for all of them.
            done = of;
        }
        let told = |number: usize, cached| BuildEvent::Step {
            number,
            line: build.steps[number - 1].line,
            title: build.steps[number - 1].action.title(),
            cached,
        };
        for number in 1..=done {
            teller.tell(told(number, true)).await;
        }
        if let Some(template) = known {
            let duration = started.elapsed();
            return Ok(BuildEvent::Done {
                template: Box::new(template),
                unchanged: true,
                cached_steps: done,
                duration,
            });
        }
        for number in done + 1..=of {
            teller.tell(told(number, false)).await;
            let begun = Instant::now();
            start = self.run_step(build, &start, number, teller).await?;
            teller.tell(BuildEvent::StepDone { number, duration: begun.elapsed() }).await;
        }
        if build.needs_trial {
            self.try_out(build, &start, teller).await?;
        }
        teller.check()?;
        teller.tell(BuildEvent::Publishing).await;
        let template = self.publish_build(build, &start).await?;
        pass(Point::BuildPublished);
        let platform = self.clone();
        let (caller, name) = (build.caller.clone(), build.name.clone());
        self.behind(async move { platform.remove_older_builds(&caller, &name).await });
        let duration = started.elapsed();
        tracing::info!(build.id = %build.id, template = %template.template, steps = of, cached = done, "recipe built");
        Ok(BuildEvent::Done { template: Box::new(template), unchanged: false, cached_steps: done, duration })
    }

    /// The outcome of the last step that is still here, and how many steps it stands for. It and those before count as
    /// used now.
    async fn cached_steps(&self, build: &Build) -> Result<(Start, usize)> {
        let filter = CheckpointFilter {
            org: Some(build.caller.org_id),
            steps: Some(true),
            step_keys: build.keys.clone(),
            ..CheckpointFilter::default()
        };
        if build.keys.is_empty() {
            return Ok((Start::Base, 0));
        }
        let found = self.inner.records.checkpoints(filter).await?;
        let until = self.kept_until();
        for (index, key) in build.keys.iter().enumerate().rev() {
            let of_key = found.iter().filter(|one| one.step_key.as_ref() == Some(key));
            for one in of_key.filter(|one| one.status == CheckpointStatus::Ready) {
                // Claimed, then read again: it may have been removed in between.
                let Ok((one, claim)) = self.claimed_checkpoint(&build.caller, one.id).await else { continue };
                if !self.inner.runtime.has_layer(one.layer).await? {
                    continue;
                }
                let used =
                    found.iter().filter(|one| build.keys[..=index].contains(one.step_key.as_ref().unwrap_or(key)));
                for used in used {
                    let touched = Checkpoint { expires_at: Some(until), ..used.clone() };
                    let change = Change::UpdateCheckpoint { checkpoint: Box::new(touched) };
                    if let Err(error) = self.inner.records.commit(vec![change]).await {
                        tracing::debug!(checkpoint.id = %used.id, %error, "could not note a step's use");
                    }
                }
                return Ok((Start::Step(Box::new(one), claim), index + 1));
            }
        }
        Ok((Start::Base, 0))
    }

    /// The template as this very recipe made it, if it is the one that its name means.
    async fn built_before(&self, build: &Build) -> Result<Option<TemplateInfo>> {
        let found = self.inner.runtime.template(build.caller.org_id, &build.name).await?;
        Ok(found.filter(|one| one.owner == Some(build.caller.org_id) && one.recipe == build.result_key))
    }

    /// Runs one step in a sandbox, which is gone afterwards whatever happens, and captures it.
    async fn run_step(&self, build: &Build, start: &Start, number: usize, teller: &Teller) -> Result<Start> {
        teller.check()?;
        let step = &build.steps[number - 1];
        let sandbox = self.step_sandbox(build, start, step.action.patience()).await?;
        let outcome = async {
            pass(Point::BuildSandbox);
            let done = teller.unless_ended(self.act(build, sandbox.id, number, teller)).await?;
            done.map_err(|error| build.blame(number, error))?;
            let request = CreateCheckpoint {
                name: format!("{} step {number} of {}", build.name, build.steps.len()),
                description: Some(step.action.title()),
                scope: ScopeSpec::default(),
                include_env: false,
                metadata: Map::from_iter([("build".to_owned(), json!(build.id))]),
                retention: forkpoint_domain::checkpoint::Retention::default(),
            };
            let outcome = StepOutcome { key: build.keys[number - 1].clone(), expires_at: self.kept_until() };
            let _guard = self.lock(sandbox.id).await?;
            let made = self.capture(&build.caller, sandbox.id, request, None, Some(outcome)).await;
            pass(Point::BuildStep);
            made.map_err(|error| match error {
                Error::TooLarge(problem) => build.blame(number, actions::Trouble::Step(problem)),
                error => error,
            })
        }
        .await;
        self.drop_step_sandbox(build, sandbox.id).await;
        let checkpoint = outcome?;
        let claim = self.inner.claims.claim(checkpoint.layer);
        Ok(Start::Step(Box::new(checkpoint), claim))
    }

    /// Sees that the template's user is there and its services start.
    async fn try_out(&self, build: &Build, start: &Start, teller: &Teller) -> Result<()> {
        teller.check()?;
        let sandbox = self.step_sandbox(build, start, Duration::from_secs(60)).await?;
        let outcome = teller.unless_ended(self.try_in(build, sandbox.id)).await;
        self.drop_step_sandbox(build, sandbox.id).await;
        outcome?
    }

    async fn step_sandbox(&self, build: &Build, start: &Start, time: Duration) -> Result<Sandbox> {
        let base_env = || build.base_env.clone();
        let origin = match start {
            Start::Step(checkpoint, _) => {
                let claim = self.inner.claims.claim(checkpoint.layer);
                Origin::checkpoint(checkpoint, base_env(), claim)?
            }
            Start::Base => match &build.base_checkpoint {
                Some((checkpoint, _)) => {
                    let claim = self.inner.claims.claim(checkpoint.layer);
                    Origin::checkpoint(checkpoint, base_env(), claim)?
                }
                None => {
                    let claim = self.inner.template_claims.claim_by_row(&build.base);
                    Origin::template(&build.base, base_env(), claim)
                }
            },
        };
        // Longer than anything in it may take; if the server is lost and never comes back, it still ends.
        let life = time.as_secs() + 600;
        let request = CreateSandbox {
            cpu_millis: build.cpu_millis,
            memory_bytes: build.memory_bytes,
            timeout_seconds: i64::try_from(life).ok(),
            env: build.environment.clone(),
            metadata: BTreeMap::from([(BUILD_LABEL.to_owned(), build.id.to_string())]),
            ..CreateSandbox::default()
        };
        let made = self.create_on(&build.caller, &request, &origin.quiet(), 1, None, Instant::now()).await?;
        made.into_iter().next().ok_or_else(|| Error::Unavailable("no sandbox was made for the step".into()))
    }

    async fn drop_step_sandbox(&self, build: &Build, id: SandboxId) {
        if let Err(error) = self.delete_sandbox(&build.caller, id).await {
            tracing::warn!(sandbox.id = %id, build.id = %build.id, %error, "could not remove the sandbox of a step now");
        }
    }

    async fn publish_build(&self, build: &Build, start: &Start) -> Result<TemplateInfo> {
        self.require_room_for_template(&build.caller).await?;
        let tree = match (start, &build.base_checkpoint) {
            (Start::Step(checkpoint, _), _) => tree_of(checkpoint),
            (Start::Base, Some((checkpoint, _))) => tree_of(checkpoint),
            (Start::Base, None) => TreeRef { template: build.base.clone(), layer: None },
        };
        let env: Environment = build.base_env.clone().overlaid(&build.environment);
        let context = env_context(build.caller.org_id, &build.name);
        let new = NewTemplate {
            name: build.name.clone(),
            owner: build.caller.org_id,
            tree,
            about: build.about.clone(),
            sealed_env: (!env.is_empty()).then(|| self.inner.seal_env(&context, &env)),
            origin: format!("recipe on {}", build.base_name),
            user: build.user.clone(),
            services: build.services.clone(),
            recipe: build.result_key.clone(),
        };
        Ok(self.inner.runtime.publish(new).await?)
    }

    /// Removes what earlier builds published under a name and nothing lies on.
    async fn remove_older_builds(&self, caller: &Caller, name: &TemplateName) {
        let Ok(known) = self.inner.runtime.templates().await else { return };
        let mut own: Vec<_> =
            known.into_iter().filter(|one| one.owner == Some(caller.org_id) && one.template.name == *name).collect();
        // The newest is what the name means.
        own.pop();
        for old in own.into_iter().filter(|one| !one.recipe.is_empty()) {
            let Ok(_removal) = self.removable(&old.template).await else { continue };
            match self.inner.runtime.remove_template(&old.template).await {
                Ok(()) => tracing::debug!(template = %old.template, "removed what an earlier build published"),
                Err(error) => tracing::warn!(template = %old.template, %error, "could not remove an older build"),
            }
        }
    }

    fn kept_until(&self) -> jiff::Timestamp {
        self.inner.clock.now().saturating_add(KEPT).unwrap_or(jiff::Timestamp::MAX)
    }
}

fn tree_of(checkpoint: &Checkpoint) -> TreeRef {
    TreeRef { template: checkpoint.template.clone(), layer: Some(checkpoint.layer) }
}

/// A problem with a recipe as a whole.
fn general(problem: impl Into<String>) -> Error {
    Error::Recipe(RecipeError { line: 1, column: 1, step: None, problem: problem.into() })
}
