//! From TOML to a recipe.

use super::{
    Base, HostBase, MAX_RECIPE_BYTES, MAX_SERVICES, MAX_STEPS, Recipe, RecipeError, Service, SourceKind, Step,
    step::{self, Problem, RawStep, RunCommand},
    text::Text,
};
use crate::{checkpoint::check_description, env::Environment, ids::CheckpointId, template::TemplateName};
use serde::Deserialize;
use std::{collections::BTreeMap, ops::Range};
use toml::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRecipe {
    name: Option<Spanned<String>>,
    description: Option<Spanned<String>>,
    category: Option<String>,
    tags: Option<Vec<String>>,
    base: Option<Spanned<RawBase>>,
    environment: Option<Spanned<BTreeMap<String, String>>>,
    user: Option<Spanned<String>>,
    #[serde(default)]
    step: Vec<Spanned<RawStep>>,
    service: Option<Vec<Spanned<RawService>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBase {
    template: Option<Spanned<String>>,
    checkpoint: Option<Spanned<String>>,
    debian: Option<Spanned<String>>,
    oci: Option<Spanned<String>>,
    docker_archive: Option<Spanned<String>>,
    directory: Option<Spanned<String>>,
    image: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    name: Spanned<String>,
    command: Spanned<RunCommand>,
    user: Option<Spanned<String>>,
    working_dir: Option<Spanned<String>>,
    env: Option<Spanned<BTreeMap<String, String>>>,
}

pub(super) fn recipe(given: &str) -> Result<Recipe, RecipeError> {
    let text = Text::new(given);
    if given.len() > MAX_RECIPE_BYTES {
        return Err(text.general(&(0..0), format!("the recipe is larger than {MAX_RECIPE_BYTES} bytes")));
    }
    let raw: RawRecipe = toml::from_str(given).map_err(|error| {
        let problem = error.message().trim_end().replace('\n', "; ");
        text.error(&error.span().unwrap_or(0..0), problem)
    })?;
    let general = |(span, problem): Problem| text.general(&span.unwrap_or(0..0), problem);
    let base = match raw.base {
        Some(base) => {
            let whole = base.span();
            base.into_inner().check().map_err(|(span, problem)| text.general(&span.unwrap_or(whole), problem))?
        }
        None => return Err(text.general(&(0..0), "the recipe has no [base]; it says what the first step starts from")),
    };
    let name = raw.name.map(|name| {
        TemplateName::parse(name.get_ref())
            .map_err(|invalid| text.general(&name.span(), format!("'name' {}", invalid.problem)))
    });
    if let Some(description) = &raw.description {
        check_description(description.get_ref())
            .map_err(|invalid| text.general(&description.span(), invalid.to_string()))?;
    }
    let environment = match raw.environment {
        None => BTreeMap::new(),
        Some(given) => {
            let span = given.span();
            let parsed = Environment::parse("environment", given.into_inner());
            parsed.map_err(|invalid| text.general(&span, invalid.to_string()))?.as_map().clone()
        }
    };
    let user = raw.user.map(|user| step::who("user", user)).transpose().map_err(general)?;
    if let Some(more) = raw.step.get(MAX_STEPS) {
        return Err(text.error(&more.span(), format!("a recipe has at most {MAX_STEPS} steps")));
    }
    let mut steps = Vec::new();
    for (index, raw) in raw.step.into_iter().enumerate() {
        let whole = raw.span();
        let checked = raw.into_inner().check().map_err(|(span, problem)| RecipeError {
            step: Some(index + 1),
            ..text.error(&span.unwrap_or_else(|| whole.clone()), problem)
        });
        steps.push(Step { line: text.place(whole.start).0, action: checked? });
    }
    let services = raw.service.map(|services| read_services(services, &text)).transpose()?;
    Ok(Recipe {
        name: name.transpose()?,
        description: raw.description.map(Spanned::into_inner).unwrap_or_default(),
        category: raw.category.unwrap_or_default(),
        tags: raw.tags.unwrap_or_default(),
        base,
        environment,
        user,
        services,
        steps,
    })
}

impl RawBase {
    fn check(self) -> Result<Base, Problem> {
        const KINDS: &str = "template, checkpoint, debian, oci, docker_archive, directory";
        let kinds = [
            ("template", self.template),
            ("checkpoint", self.checkpoint),
            ("debian", self.debian),
            ("oci", self.oci),
            ("docker_archive", self.docker_archive),
            ("directory", self.directory),
        ];
        let mut given = kinds.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let (Some((kind, value)), None) = (given.next(), given.next()) else {
            return Err((None, format!("[base] must have exactly one of {KINDS}")));
        };
        let span = value.span();
        let value = value.into_inner();
        let refuse = |problem: String| (Some(span.clone()), format!("'{kind}' {problem}"));
        let source = match kind {
            "oci" => Some(SourceKind::Oci),
            "docker_archive" => Some(SourceKind::DockerArchive),
            "directory" => Some(SourceKind::Directory),
            _ => None,
        };
        if let Some(image) = &self.image
            && !matches!(source, Some(SourceKind::Oci | SourceKind::DockerArchive))
        {
            return Err((Some(image.span()), "'image' goes with 'oci' and 'docker_archive' only".to_owned()));
        }
        if let Some(kind) = source {
            if value.is_empty() || value.contains('\0') {
                return Err(refuse("must be a path on the server's machine".to_owned()));
            }
            let image = self.image.map(Spanned::into_inner);
            return Ok(Base::Host(HostBase::Source { kind, path: value, image }));
        }
        match kind {
            "template" => Ok(Base::Template(TemplateName::parse(&value).map_err(|one| refuse(one.problem))?)),
            "checkpoint" => Ok(Base::Checkpoint(value.parse::<CheckpointId>().map_err(|one| refuse(one.problem))?)),
            _ => match (1..=32).contains(&value.len()) && value.bytes().all(|c| c.is_ascii_lowercase()) {
                true => Ok(Base::Host(HostBase::Debian { suite: value })),
                false => Err(refuse("must be the name of a release, like bookworm".to_owned())),
            },
        }
    }
}

fn read_services(given: Vec<Spanned<RawService>>, text: &Text<'_>) -> Result<Vec<Service>, RecipeError> {
    let mut services: Vec<Service> = Vec::new();
    for raw in given {
        let whole: Range<usize> = raw.span();
        let at = |(span, problem): Problem| text.general(&span.unwrap_or_else(|| whole.clone()), problem);
        if services.len() == MAX_SERVICES {
            return Err(at((None, format!("a template has at most {MAX_SERVICES} services"))));
        }
        let raw = raw.into_inner();
        let name_span = raw.name.span();
        let name = raw.name.into_inner();
        let fits = (1..=64).contains(&name.len())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            && !services.iter().any(|one| one.name == name);
        if !fits {
            let problem = "'name' must be 1 to 64 of letters, digits, '.', '_', '-', and each service has its own";
            return Err(at((Some(name_span), problem.to_owned())));
        }
        let command = match step::command("command", raw.command).map_err(at)? {
            RunCommand::Shell(text) => vec!["/bin/sh".to_owned(), "-c".to_owned(), text],
            RunCommand::Argv(argv) => argv,
        };
        services.push(Service {
            name,
            command,
            user: raw.user.map(|user| step::who("user", user)).transpose().map_err(at)?,
            working_dir: raw.working_dir.map(|dir| step::inside("working_dir", dir)).transpose().map_err(at)?,
            env: raw.env.map_or_else(|| Ok(BTreeMap::new()), step::variables).map_err(at)?,
        });
    }
    Ok(services)
}
