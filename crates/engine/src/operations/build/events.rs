//! What a build tells while it runs, and when it is to end because nobody listens.

use crate::{Error, Result, platform::builds::Builds, ports::templates::TemplateInfo};
use bytes::Bytes;
use forkpoint_domain::{ids::BuildId, template::TemplateName};
use std::time::Duration;
use tokio::sync::mpsc;

/// What a build tells.
#[derive(Debug, Clone)]
pub enum BuildEvent {
    /// It is taken on.
    Begun {
        /// Its name.
        build: BuildId,
        /// What the template will be called.
        template: TemplateName,
        /// How many steps the recipe has.
        steps: usize,
    },
    /// Another build of the same template is in progress; this one waits for its end.
    Waiting,
    /// A step begins, or need not be done.
    Step {
        /// Which, from 1 on.
        number: usize,
        /// Where it stands in the recipe.
        line: usize,
        /// What it does, in one line.
        title: String,
        /// Whether an earlier build's outcome stands for it.
        cached: bool,
    },
    /// A step's command wrote this.
    Output {
        /// Which step, from 1 on.
        number: usize,
        /// Whether it was standard error.
        is_error: bool,
        /// Unmodified.
        data: Bytes,
    },
    /// A step is done and its outcome kept.
    StepDone {
        /// Which, from 1 on.
        number: usize,
        /// How long it took.
        duration: Duration,
    },
    /// All steps are done; the template is being put together.
    Publishing,
    /// Sandboxes can be made from it; nothing follows.
    Done {
        /// The template.
        template: Box<TemplateInfo>,
        /// Whether it was there already, made by this very recipe.
        unchanged: bool,
        /// For how many steps an earlier build's outcome stood.
        cached_steps: usize,
        /// How long all of it took.
        duration: Duration,
    },
    /// There is no template; nothing follows.
    Failed(Error),
}

/// Tells events to whoever listens.
pub(super) struct Teller {
    events: mpsc::Sender<BuildEvent>,
    keep_going: bool,
    builds: Builds,
}

impl Teller {
    pub(super) fn new(events: mpsc::Sender<BuildEvent>, keep_going: bool, builds: Builds) -> Self {
        Self { events, keep_going, builds }
    }

    /// Tells, waiting for a slow listener; one that is gone is told nothing.
    pub(super) async fn tell(&self, event: BuildEvent) {
        let _ = self.events.send(event).await;
    }

    /// What `work` gives, unless the build is to end before; `work` is dropped then.
    pub(super) async fn unless_ended<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            done = work => Ok(done),
            () = self.abandoned() => Err(abandoned()),
            () = self.builds.ending() => Err(ending()),
        }
    }

    /// Refuses when the build is to end.
    pub(super) fn check(&self) -> Result<()> {
        if !self.keep_going && self.events.is_closed() { Err(abandoned()) } else { Ok(()) }
    }

    async fn abandoned(&self) {
        match self.keep_going {
            true => std::future::pending().await,
            false => self.events.closed().await,
        }
    }
}

fn abandoned() -> Error {
    Error::conflict("build_abandoned", "the client went away, which ends a build that is not asked to keep going")
}

fn ending() -> Error {
    Error::Unavailable("the server is ending; a new build goes on behind the last finished step".into())
}
