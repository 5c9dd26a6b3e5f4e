//! What a build is going to do, checked as far as it can be before anything is done.

use super::{BuildTemplate, RecipeFile, actions::Trouble, general, keys};
use crate::{
    Caller, Error, Platform, Result,
    operations::{require_ready, templates::check_about},
    platform::{claims::Claim, new_uuid, templates::TemplateClaim},
    ports::{guest::GuestError, templates::TemplateAbout},
};
use forkpoint_domain::{
    Invalid,
    checkpoint::Checkpoint,
    env::Environment,
    ids::BuildId,
    recipe::{Action, Base, RecipeError, Service, Step, is_plain_relative},
    template::{DEFAULT_TEMPLATE, TemplateName, TemplateRef},
};
use std::collections::BTreeMap;

/// Files that one build may bring along.
const MAX_FILES: usize = 20_000;

/// A build that is about to run.
pub(super) struct Build {
    pub(super) id: BuildId,
    pub(super) caller: Caller,
    pub(super) name: TemplateName,
    pub(super) about: TemplateAbout,
    pub(super) environment: Environment,
    pub(super) user: Option<String>,
    pub(super) services: Vec<Service>,
    /// Whether user and services have to be tried before they are promised.
    pub(super) needs_trial: bool,
    pub(super) steps: Vec<Step>,
    /// The key of each step's outcome.
    pub(super) keys: Vec<String>,
    /// What the finished template is known by.
    pub(super) result_key: String,
    pub(super) files: BTreeMap<String, RecipeFile>,
    pub(super) base: TemplateRef,
    /// The base for people.
    pub(super) base_name: String,
    pub(super) base_env: Environment,
    pub(super) base_checkpoint: Option<(Checkpoint, Claim)>,
    pub(super) use_cache: bool,
    pub(super) keep_going: bool,
    pub(super) cpu_millis: Option<u32>,
    pub(super) memory_bytes: Option<u64>,
    _template: Option<TemplateClaim>,
}

impl Platform {
    pub(super) async fn plan_build(&self, caller: &Caller, request: BuildTemplate) -> Result<Build> {
        let BuildTemplate { recipe, name, base, files, use_cache, keep_going, cpu_millis, memory_bytes } = request;
        let name =
            name.or(recipe.name).ok_or_else(|| Invalid::new("name", "is in neither the request nor the recipe"))?;
        if name.as_str() == DEFAULT_TEMPLATE {
            return Err(Invalid::new("name", "is the server's own template; choose another").into());
        }
        let about = TemplateAbout { description: recipe.description, category: recipe.category, tags: recipe.tags };
        check_about(&about)?;
        check_files(&files)?;
        for (index, step) in recipe.steps.iter().enumerate() {
            if let Action::Copy { from, .. } = &step.action
                && keys::below(&files, from).next().is_none()
            {
                return Err(Error::Recipe(at(step, index + 1, format!("copy: no '{from}' was sent with the recipe"))));
            }
        }
        let found = match (base, recipe.base) {
            (Some(name), Base::Host(_)) | (None, Base::Template(name)) => self.base_template(caller, name).await?,
            (None, Base::Checkpoint(id)) => {
                let (checkpoint, claim) = self.claimed_checkpoint(caller, id).await?;
                require_ready(&checkpoint)?;
                self.bring_layer_back(&checkpoint).await?;
                let env = self.checkpoint_environment(&checkpoint).await?.unwrap_or_default();
                let below = self.inner.runtime.template_version(&checkpoint.template).await?;
                FoundBase {
                    template: checkpoint.template.clone(),
                    name: format!("checkpoint {id}"),
                    identity: id.to_string(),
                    env,
                    user: below.as_ref().and_then(|one| one.user.clone()),
                    services: below.map(|one| one.services).unwrap_or_default(),
                    checkpoint: Some((checkpoint, claim)),
                    claim: None,
                }
            }
            (None, Base::Host(_)) => {
                return Err(general(
                    "the recipe's [base] is on the server's machine, where only its operator can take it from: \
                     `forkpoint template build RECIPE --data-dir DIR` there; or start from a template",
                ));
            }
            (Some(_), Base::Template(_) | Base::Checkpoint(_)) => {
                return Err(Invalid::new("base", "goes with a recipe whose [base] is on the server's machine").into());
            }
        };
        let environment = Environment::parse("environment", recipe.environment)?;
        let mut key = keys::first(&(caller.org_id, &found.identity, &environment));
        let mut step_keys = Vec::new();
        for step in &recipe.steps {
            key = keys::next(&key, &step.action, &files);
            step_keys.push(key.clone());
        }
        let needs_trial = recipe.user.is_some() || recipe.services.as_ref().is_some_and(|some| !some.is_empty());
        let user = recipe.user.or(found.user);
        let services = recipe.services.unwrap_or(found.services);
        let told = (&about.description, &about.category, &about.tags);
        let result_key = keys::first(&(&key, name.as_str(), told, &found.env, &user, &services));
        Ok(Build {
            id: BuildId::from_uuid(new_uuid()),
            caller: caller.clone(),
            name,
            about,
            environment,
            user,
            services,
            needs_trial,
            steps: recipe.steps,
            keys: step_keys,
            result_key,
            files,
            base: found.template,
            base_name: found.name,
            base_env: found.env,
            base_checkpoint: found.checkpoint,
            use_cache,
            keep_going,
            cpu_millis,
            memory_bytes,
            _template: found.claim,
        })
    }

    async fn base_template(&self, caller: &Caller, name: TemplateName) -> Result<FoundBase> {
        let found = self.claimed_template(caller, &name).await?;
        let (found, claim) = found.ok_or_else(|| general(format!("[base]: there is no template '{name}'")))?;
        Ok(FoundBase {
            env: self.template_environment(&found)?,
            identity: found.template.to_string(),
            name: format!("template {name}"),
            user: found.user,
            services: found.services,
            template: found.template,
            checkpoint: None,
            claim: Some(claim),
        })
    }
}

struct FoundBase {
    template: TemplateRef,
    name: String,
    /// Equal ones are equal trees.
    identity: String,
    env: Environment,
    user: Option<String>,
    services: Vec<Service>,
    checkpoint: Option<(Checkpoint, Claim)>,
    claim: Option<TemplateClaim>,
}

impl Build {
    /// A step's failure, with its place in the recipe where the step is to blame.
    pub(super) fn blame(&self, number: usize, trouble: Trouble) -> Error {
        let step = &self.steps[number - 1];
        match trouble {
            Trouble::Step(problem) | Trouble::Guest(GuestError::NoSuchUser(problem)) => {
                Error::StepFailed(at(step, number, problem))
            }
            Trouble::Guest(GuestError::Lost(problem)) => {
                Error::StepFailed(at(step, number, format!("the step's sandbox ended: {problem}")))
            }
            Trouble::Guest(error) => Error::StepFailed(at(step, number, error.to_string())),
            Trouble::Other(error) => error,
        }
    }
}

fn at(step: &Step, number: usize, problem: String) -> RecipeError {
    RecipeError { line: step.line, column: 1, step: Some(number), problem }
}

fn check_files(files: &BTreeMap<String, RecipeFile>) -> Result<()> {
    if files.len() > MAX_FILES {
        return Err(Invalid::new("files", format!("has more than {MAX_FILES} entries")).into());
    }
    for (path, file) in files {
        let shown: String = path.chars().take(100).collect();
        if !is_plain_relative(path) {
            return Err(Invalid::new(format!("files.{shown}"), "must be a relative path without '.' and '..'").into());
        }
        // A file cannot have anything below it.
        let parents = path.match_indices('/').map(|(end, _)| &path[..end]);
        if let RecipeFile::File { mode, .. } = file
            && *mode > 0o777
        {
            return Err(Invalid::new(format!("files.{shown}.mode"), "must be at most 0777").into());
        }
        for parent in parents {
            if matches!(files.get(parent), Some(RecipeFile::File { .. })) {
                return Err(Invalid::new(format!("files.{shown}"), "lies below a file").into());
            }
        }
    }
    Ok(())
}
