//! Templates: looking at them, making one of a checkpoint, removing one.
//!
//! The operator's templates are everybody's; what an organisation publishes is its own. A name means the
//! organisation's template first, so that what the operator adds later changes nothing for it.

use super::require_ready;
use crate::{
    Caller, Error, Platform, Result,
    platform::{new_uuid, templates::TemplateClaim},
    ports::{
        records::{CheckpointFilter, SandboxFilter},
        templates::{NewTemplate, TemplateAbout, TemplateInfo},
    },
};
use forkpoint_domain::{
    Invalid,
    checkpoint::check_description,
    env::Environment,
    ids::{CheckpointId, LayerId, OrgId},
    organization::KeyScope,
    restore::{TreeRef, plan_fork},
    scope::Scope,
    template::{DEFAULT_TEMPLATE, TemplateName, TemplateRef},
};
use std::collections::BTreeMap;

/// The most template versions that an organisation may have.
pub const MAX_TEMPLATES: usize = 100;
/// The longest category or tag, in bytes.
const MAX_WORD: usize = 64;
/// The most tags.
const MAX_TAGS: usize = 20;

/// What a checkpoint is to become.
#[derive(Debug, Clone)]
pub struct PublishCheckpoint {
    /// What the template is called.
    pub name: TemplateName,
    /// What people are told of it.
    pub about: TemplateAbout,
    /// Whether it has the checkpoint's environment.
    pub include_env: bool,
}

impl Platform {
    /// The current version of each template that the caller sees, by name.
    pub async fn list_templates(&self, caller: &Caller) -> Result<Vec<TemplateInfo>> {
        caller.require(KeyScope::Read)?;
        let mut visible: BTreeMap<TemplateName, TemplateInfo> = BTreeMap::new();
        for found in self.inner.runtime.templates().await? {
            let own = found.owner == Some(caller.org_id);
            let shadowed = visible.get(&found.template.name).is_some_and(|known| known.owner.is_some() && !own);
            if (own || found.owner.is_none()) && !shadowed {
                visible.insert(found.template.name.clone(), found);
            }
        }
        Ok(visible.into_values().collect())
    }

    /// The current version of a template.
    pub async fn get_template(&self, caller: &Caller, name: &TemplateName) -> Result<TemplateInfo> {
        caller.require(KeyScope::Read)?;
        let found = self.inner.runtime.template(caller.org_id, name).await?;
        found.ok_or_else(|| Error::not_found("template", name))
    }

    /// Makes a template of a checkpoint: its template and what was captured, flattened, as one of the caller's
    /// organisation. Checkpoint and template live on their own. The same name again makes a new version; sandboxes
    /// and checkpoints stay on theirs.
    pub async fn publish_checkpoint(
        &self,
        caller: &Caller,
        id: CheckpointId,
        request: PublishCheckpoint,
    ) -> Result<TemplateInfo> {
        caller.require(KeyScope::Write)?;
        check_about(&request.about)?;
        if request.name.as_str() == DEFAULT_TEMPLATE {
            return Err(Invalid::new("name", "is the server's own template; choose another").into());
        }
        let (platform, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            let (checkpoint, _claim) = platform.claimed_checkpoint(&caller, id).await?;
            require_ready(&checkpoint)?;
            platform.bring_layer_back(&checkpoint).await?;
            let inner = &platform.inner;
            platform.require_room_for_template(&caller).await?;
            let below = inner.runtime.template_version(&checkpoint.template).await?;
            let env = match request.include_env {
                true => platform.checkpoint_environment(&checkpoint).await?.filter(|env| !env.is_empty()),
                false => None,
            };
            let context = env_context(caller.org_id, &request.name);
            let mut tree = TreeRef { template: checkpoint.template.clone(), layer: Some(checkpoint.layer) };
            let scope = Scope::parse(checkpoint.scope.clone())?;
            // What a fork of it would start from, made for this and gone afterwards.
            let mut made = None;
            if !scope.is_everything() {
                let layer = LayerId::from_uuid(new_uuid());
                made = Some((layer, inner.claims.claim(layer)));
                let outcome = inner.runtime.make_layer(layer, &plan_fork(&tree, &scope)).await;
                tree.layer = Some(layer);
                if let Err(error) = outcome {
                    drop(made);
                    platform.behind_drop_layer(layer);
                    return Err(error.into());
                }
            }
            let new = NewTemplate {
                name: request.name,
                owner: caller.org_id,
                tree,
                about: request.about,
                sealed_env: env.map(|env| inner.seal_env(&context, &env)),
                origin: format!("checkpoint {id}"),
                user: below.as_ref().and_then(|one| one.user.clone()),
                services: below.map(|one| one.services).unwrap_or_default(),
                recipe: String::new(),
            };
            let published = inner.runtime.publish(new).await;
            if let Some((layer, claim)) = made {
                drop(claim);
                platform.behind_drop_layer(layer);
            }
            let published = published?;
            tracing::info!(checkpoint.id = %id, template = %published.template, "checkpoint published as a template");
            Ok(published)
        })
        .await
    }

    /// Removes all versions of one of the organisation's templates. Refused while sandboxes or checkpoints lie on one.
    pub async fn delete_template(&self, caller: &Caller, name: &TemplateName) -> Result<()> {
        caller.require(KeyScope::Write)?;
        let (platform, caller, name) = (self.clone(), caller.clone(), name.clone());
        self.to_the_end(async move {
            let known = platform.inner.runtime.templates().await?;
            let of_name: Vec<_> = known.into_iter().filter(|one| one.template.name == name).collect();
            let own: Vec<_> = of_name.iter().filter(|one| one.owner == Some(caller.org_id)).collect();
            if own.is_empty() {
                return Err(match of_name.iter().any(|one| one.owner.is_none()) {
                    true => Error::conflict(
                        "template_of_operator",
                        format!("template '{name}' belongs to the server's operator"),
                    ),
                    false => Error::not_found("template", &name),
                });
            }
            let mut removals = Vec::new();
            for one in own {
                removals.push((one.template.clone(), platform.removable(&one.template).await?));
            }
            for (template, _removal) in &removals {
                platform.inner.runtime.remove_template(template).await?;
            }
            Ok(())
        })
        .await
    }

    /// Refuses when an organisation has as many template versions as it may.
    pub(crate) async fn require_room_for_template(&self, caller: &Caller) -> Result<()> {
        let known = self.inner.runtime.templates().await?;
        if known.iter().filter(|one| one.owner == Some(caller.org_id)).count() >= MAX_TEMPLATES {
            let message = format!("the organisation has {MAX_TEMPLATES} template versions; delete one first");
            return Err(Error::conflict("too_many_templates", message));
        }
        Ok(())
    }

    /// Makes sure that nothing needs a version, and that nothing will. What recipes' steps made on it goes.
    pub(crate) async fn removable(&self, template: &TemplateRef) -> Result<crate::platform::templates::Removal> {
        let in_use = |what: String| {
            let message = format!("template '{}' is in use by {what}; delete that first", template.name);
            Error::conflict("template_in_use", message)
        };
        let busy = || {
            Error::conflict(
                "operation_in_progress",
                format!("template '{}' is being used right now; try again", template.name),
            )
        };
        let claims = &self.inner.template_claims;
        let removal = claims.begin_removal(template).ok_or_else(busy)?;
        if claims.is_claimed(template) {
            return Err(busy());
        }
        let sandboxes = self.inner.records.sandboxes(SandboxFilter::default()).await?;
        if let Some(one) = sandboxes.iter().find(|one| one.layer.is_some() && one.template == *template) {
            return Err(in_use(format!("sandbox {}", one.id)));
        }
        let checkpoints = self.inner.records.checkpoints(CheckpointFilter::default()).await?;
        let (steps, named): (Vec<_>, Vec<_>) =
            checkpoints.into_iter().filter(|one| one.template == *template).partition(|one| one.step_key.is_some());
        if let Some(one) = named.first() {
            return Err(in_use(format!("checkpoint {}", one.id)));
        }
        for step in steps {
            self.remove_checkpoint(&step, "its template is removed").await?;
        }
        if claims.is_claimed(template) {
            return Err(busy());
        }
        Ok(removal)
    }

    /// What a name means to the caller, claimed.
    pub(crate) async fn claimed_template(
        &self,
        caller: &Caller,
        name: &TemplateName,
    ) -> Result<Option<(TemplateInfo, TemplateClaim)>> {
        let Some(found) = self.inner.runtime.template(caller.org_id, name).await? else { return Ok(None) };
        let Some(claim) = self.inner.template_claims.claim_by_name(&found.template) else { return Ok(None) };
        Ok(Some((found, claim)))
    }

    /// The environment that sandboxes of a template begin with.
    pub(crate) fn template_environment(&self, template: &TemplateInfo) -> Result<Environment> {
        let (Some(sealed), Some(owner)) = (&template.sealed_env, template.owner) else {
            return Ok(template.env.clone());
        };
        let context = env_context(owner, &template.template.name);
        Ok(template.env.clone().overlaid(&self.inner.open_env(&context, sealed)?))
    }
}

/// What a template's sealed environment is bound to.
pub(crate) fn env_context(owner: OrgId, name: &TemplateName) -> String {
    format!("template {owner} {name}")
}

pub(crate) fn check_about(about: &TemplateAbout) -> Result<(), Invalid> {
    check_description(&about.description)?;
    let word = |field: &str, word: &String| match word.len() > MAX_WORD || word.chars().any(char::is_control) {
        true => Err(Invalid::new(field, format!("must be at most {MAX_WORD} bytes without control characters"))),
        false => Ok(()),
    };
    word("category", &about.category)?;
    if about.tags.len() > MAX_TAGS {
        return Err(Invalid::new("tags", format!("has more than {MAX_TAGS} tags")));
    }
    about.tags.iter().try_for_each(|tag| word("tags", tag))
}
