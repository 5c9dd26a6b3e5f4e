//! A runtime without processes: layers are trees in memory, commands are scripts.

use crate::{
    guest::{FakeGuest, Step},
    terminals::FakeTerminals,
    tree::{Tree, differences},
};
use async_trait::async_trait;
use forkpoint_domain::{
    checkpoint::CaptureLimits,
    diff::TreeDiff,
    env::Environment,
    ids::{LayerId, OrgId, SandboxId},
    restore::{LayerPlan, TreeRef},
    sandbox::StopReason,
    scope::Scope,
    template::{TemplateName, TemplateRef},
};
use forkpoint_engine::ports::{
    guest::{ExecEvent, ExecExit, ExecSpec, Guest, GuestError},
    runtime::{Capture, Captured, Death, FoundFile, Instance, Launch, Measure, Runtime, RuntimeError},
    templates::{NewTemplate, TemplateAbout, TemplateInfo},
};
use jiff::Timestamp;
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{mpsc, watch};

/// What a command does.
pub(crate) type Script = Arc<dyn Fn(&ExecSpec) -> Result<Vec<Step>, GuestError> + Send + Sync>;

/// A runtime in memory. Clones are one.
#[derive(Clone)]
pub struct FakeRuntime(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    terminals: FakeTerminals,
    killed: watch::Sender<u64>,
    deaths: (mpsc::UnboundedSender<Death>, tokio::sync::Mutex<mpsc::UnboundedReceiver<Death>>),
}

struct State {
    layers: HashMap<LayerId, Tree>,
    templates: Vec<(TemplateInfo, Tree)>,
    running: HashMap<SandboxId, Instance>,
    script: Script,
    commands: Vec<ExecSpec>,
    failures: VecDeque<RuntimeError>,
    delay: Duration,
    free_bytes: Option<usize>,
    launched: u32,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                layers: HashMap::new(),
                templates: Vec::new(),
                running: HashMap::new(),
                script: Arc::new(|_| Ok(vec![Step::Tell(ExecEvent::Exit(ExecExit::default()))])),
                commands: Vec::new(),
                failures: VecDeque::new(),
                delay: Duration::ZERO,
                free_bytes: None,
                launched: 0,
            }),
            terminals: FakeTerminals::default(),
            killed: watch::Sender::new(0),
            deaths: (sender, tokio::sync::Mutex::new(receiver)),
        }))
    }
}

impl fmt::Debug for FakeRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("FakeRuntime")
            .field("layers", &state.layers.len())
            .field("running", &state.running.len())
            .finish()
    }
}

impl FakeRuntime {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on every command does this. The default exits with 0 and says nothing.
    pub fn script(&self, script: impl Fn(&ExecSpec) -> Result<Vec<Step>, GuestError> + Send + Sync + 'static) {
        self.state().script = Arc::new(script);
    }

    /// The commands that were started, in order.
    pub fn commands(&self) -> Vec<ExecSpec> {
        self.state().commands.clone()
    }

    /// How many commands were dropped before they ended; can be waited for.
    pub fn killed(&self) -> watch::Receiver<u64> {
        self.0.killed.subscribe()
    }

    /// The next operations fail with these, one each.
    pub fn fail_next(&self, errors: impl IntoIterator<Item = RuntimeError>) {
        self.state().failures.extend(errors);
    }

    /// From now on making a layer, capturing and measuring take so long.
    pub fn slow_down(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// From now on a file of more than so many bytes does not fit a sandbox's disk.
    pub fn limit_disk(&self, free_bytes: usize) {
        self.state().free_bytes = Some(free_bytes);
    }

    /// How many layers there are.
    pub fn layer_count(&self) -> usize {
        self.state().layers.len()
    }

    /// How many sandboxes run.
    pub fn running_count(&self) -> usize {
        self.state().running.len()
    }

    /// Lets a sandbox end by itself.
    pub fn kill(&self, sandbox: SandboxId, reason: StopReason) {
        self.state().running.remove(&sandbox);
        // The receiver lives as long as this.
        drop(self.0.deaths.0.send(Death { sandbox, reason }));
    }

    pub(crate) fn note_command(&self, command: &ExecSpec) -> Script {
        let mut state = self.state();
        state.commands.push(command.clone());
        state.script.clone()
    }

    pub(crate) fn terminals(&self) -> &FakeTerminals {
        &self.0.terminals
    }

    pub(crate) fn killed_sender(&self) -> watch::Sender<u64> {
        self.0.killed.clone()
    }

    pub(crate) fn check_disk(&self, bytes: usize) -> Result<(), GuestError> {
        match self.state().free_bytes {
            Some(free) if bytes > free => Err(GuestError::NoSpace("no space left on the sandbox's disk".into())),
            _ => Ok(()),
        }
    }

    pub(crate) fn with_tree<T>(&self, sandbox: SandboxId, work: impl FnOnce(&mut Tree) -> T) -> Option<T> {
        let mut state = self.state();
        let layer = state.running.get(&sandbox)?.layer;
        state.layers.get_mut(&layer).map(work)
    }

    async fn begin(&self) -> Result<(), RuntimeError> {
        let (delay, failure) = {
            let mut state = self.state();
            (state.delay, state.failures.pop_front())
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        failure.map_or(Ok(()), Err)
    }
}

/// The one template that is always there.
fn default_template() -> TemplateInfo {
    TemplateInfo {
        template: TemplateRef { name: TemplateName::default(), digest: "0123abcd".into() },
        owner: None,
        about: TemplateAbout::default(),
        env: Environment::default(),
        sealed_env: None,
        origin: "built".into(),
        user: None,
        services: Vec::new(),
        recipe: String::new(),
        release: "bookworm".into(),
        file_count: 1,
        size_bytes: 30,
        created_at: Timestamp::UNIX_EPOCH,
    }
}

impl State {
    fn tree(&self, of: &TreeRef) -> Result<Tree, RuntimeError> {
        match of.layer {
            None => {
                let published = self.templates.iter().find(|(info, _)| info.template == of.template);
                Ok(published.map_or_else(Tree::template, |(_, tree)| tree.clone()))
            }
            Some(layer) => self.layers.get(&layer).cloned().ok_or(RuntimeError::LayerMissing(layer)),
        }
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn template(&self, org: OrgId, name: &TemplateName) -> Result<Option<TemplateInfo>, RuntimeError> {
        let known = self.templates().await?.into_iter().filter(|one| one.template.name == *name);
        let mut visible: Vec<_> = known.filter(|one| one.owner.is_none_or(|owner| owner == org)).collect();
        visible.sort_by_key(|one| one.owner.is_some());
        Ok(visible.pop())
    }

    async fn templates(&self) -> Result<Vec<TemplateInfo>, RuntimeError> {
        let published = self.state().templates.iter().map(|(info, _)| info.clone()).collect::<Vec<_>>();
        Ok([vec![default_template()], published].concat())
    }

    async fn publish(&self, new: NewTemplate) -> Result<TemplateInfo, RuntimeError> {
        self.begin().await?;
        let mut state = self.state();
        let tree = state.tree(&new.tree)?;
        let digest = format!("{:032x}", state.templates.len() + 1);
        let info = TemplateInfo {
            template: TemplateRef { name: new.name, digest },
            owner: Some(new.owner),
            about: new.about,
            sealed_env: new.sealed_env,
            origin: new.origin,
            user: new.user,
            services: new.services,
            recipe: new.recipe,
            ..default_template()
        };
        state.templates.push((info.clone(), tree));
        Ok(info)
    }

    async fn remove_template(&self, template: &TemplateRef) -> Result<(), RuntimeError> {
        self.state().templates.retain(|(info, _)| info.template != *template);
        Ok(())
    }

    async fn make_layer(&self, layer: LayerId, plan: &LayerPlan) -> Result<(), RuntimeError> {
        self.begin().await?;
        let mut state = self.state();
        let mut tree = state.tree(&TreeRef { template: plan.template.clone(), layer: plan.base })?;
        if let Some(graft) = &plan.graft {
            let from = state.tree(&graft.from)?;
            tree.graft(graft, &from);
        }
        state.layers.insert(layer, tree);
        Ok(())
    }

    async fn drop_layer(&self, layer: LayerId) -> Result<(), RuntimeError> {
        self.state().layers.remove(&layer);
        Ok(())
    }

    async fn layers(&self) -> Result<Vec<LayerId>, RuntimeError> {
        Ok(self.state().layers.keys().copied().collect())
    }

    async fn launch(&self, launch: &Launch) -> Result<Instance, RuntimeError> {
        let mut state = self.state();
        if !state.layers.contains_key(&launch.layer) {
            return Err(RuntimeError::LayerMissing(launch.layer));
        }
        state.launched += 1;
        let address = format!("10.90.0.{}", state.launched % 250 + 2);
        let instance = Instance { sandbox: launch.sandbox, layer: launch.layer, address };
        state.running.insert(launch.sandbox, instance.clone());
        Ok(instance)
    }

    async fn end(&self, sandbox: SandboxId) -> Result<(), RuntimeError> {
        self.state().running.remove(&sandbox);
        Ok(())
    }

    async fn instances(&self) -> Result<Vec<Instance>, RuntimeError> {
        Ok(self.state().running.values().cloned().collect())
    }

    async fn capture(&self, _: SandboxId, layer: LayerId, into: LayerId) -> Result<Capture, RuntimeError> {
        self.begin().await?;
        let mut state = self.state();
        let tree = state.layers.get(&layer).cloned().ok_or(RuntimeError::LayerMissing(layer))?;
        state.layers.insert(into, tree);
        Ok(Capture { pause_ms: 2.5, copy_duration_ms: 4.25 })
    }

    async fn measure(&self, tree: &TreeRef, scope: &Scope, limits: CaptureLimits) -> Result<Measure, RuntimeError> {
        self.begin().await?;
        let tree = self.state().tree(tree)?;
        let captured = tree.captured(scope);
        let file_count = captured.len() as u64;
        let size_bytes = captured.values().map(|content| content.len() as u64).sum();
        if file_count > limits.max_files {
            return Err(RuntimeError::TooManyFiles { limit: limits.max_files });
        }
        if size_bytes > limits.max_bytes {
            return Err(RuntimeError::TooLarge { limit: limits.max_bytes });
        }
        Ok(Measure { file_count, size_bytes })
    }

    async fn absent(&self, tree: &TreeRef, mut paths: Vec<String>) -> Result<Vec<String>, RuntimeError> {
        let state = self.state();
        let tree = state.tree(tree)?;
        let scope = Scope::everything();
        let files = tree.captured(&scope);
        paths.retain(|path| {
            let below = format!("{}/", path.trim_end_matches('/'));
            !files.keys().any(|file| file == path || file.starts_with(&below))
        });
        Ok(paths)
    }

    async fn compare(&self, first: &Captured, second: &Captured) -> Result<TreeDiff, RuntimeError> {
        let state = self.state();
        let (one, two) = (state.tree(&first.tree)?, state.tree(&second.tree)?);
        Ok(differences(&one.captured(&first.scope), &two.captured(&second.scope)))
    }

    async fn read_files(
        &self,
        of: &Captured,
        paths: Vec<Vec<u8>>,
        limit: u64,
    ) -> Result<Vec<Option<FoundFile>>, RuntimeError> {
        let tree = self.state().tree(&of.tree)?;
        let read = |path: Vec<u8>| {
            if !of.scope.contains(&path) {
                return None;
            }
            let content = tree.0.get(&String::from_utf8(path).ok()?)?.content.as_ref()?;
            let size = content.len() as u64;
            Some(FoundFile { size, content: (size <= limit).then(|| content.to_vec()) })
        };
        Ok(paths.into_iter().map(read).collect())
    }

    fn guest(&self, sandbox: SandboxId) -> Result<Arc<dyn Guest>, RuntimeError> {
        if !self.state().running.contains_key(&sandbox) {
            return Err(RuntimeError::NotRunning);
        }
        Ok(Arc::new(FakeGuest { runtime: self.clone(), sandbox }))
    }

    async fn next_death(&self) -> Death {
        match self.0.deaths.1.lock().await.recv().await {
            Some(death) => death,
            // The sender lives as long as this.
            None => std::future::pending().await,
        }
    }
}
