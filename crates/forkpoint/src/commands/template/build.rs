//! `forkpoint template build`: sends a recipe and what it copies, and tells how the build goes.

use super::base;
use crate::{
    commands::{Context, Failure, arguments},
    output::{clean, text},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use forkpoint_domain::{
    recipe::{Base, MAX_RECIPE_BYTES, Recipe},
    template::TemplateName,
};
use serde_json::{Map, Value, json};
use std::{
    io::{self, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// The most bytes of files that one request can carry: the server takes bodies of 64 MiB, and this is what base64
/// leaves of it.
const MAX_FILES_BYTES: u64 = 44 * 1024 * 1024;
/// The most files and directories.
const MAX_FILES: usize = 20_000;

/// What to build.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The recipe (TOML); what it copies lies below its directory
    recipe: PathBuf,
    /// What the template is called [default: as the recipe says]
    #[arg(long)]
    name: Option<TemplateName>,
    /// Do every step, whatever earlier builds left
    #[arg(long)]
    no_cache: bool,
    /// Let the build go on when this command ends
    #[arg(long)]
    keep_going: bool,
    /// Processor share of each step, like 1, 0.5 or 500m
    #[arg(long)]
    cpus: Option<String>,
    /// Memory limit of each step, like 512Mi or 1Gi
    #[arg(long)]
    memory: Option<String>,
    /// The server's data directory, for a base on its machine
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Builds and prints the template's name. What happens meanwhile goes to standard error.
pub(crate) async fn run(args: Args, context: &Context) -> Result<u8, Failure> {
    let client = context.client()?;
    let shown = args.recipe.display();
    let text = read_recipe(&args.recipe)?;
    let recipe = Recipe::parse(&text).map_err(|error| Failure::Other(format!("{shown}: {error}")))?;
    let directory = match args.recipe.parent() {
        Some(parent) if parent != Path::new("") => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let mut body = json!({ "recipe": text, "no_cache": args.no_cache, "keep_going": args.keep_going });
    body["files"] = collect(&recipe, &directory)?.into();
    arguments::set(&mut body, "name", args.name.map(String::from));
    arguments::set(&mut body, "cpus", args.cpus);
    arguments::set(&mut body, "memory", args.memory);
    if let Base::Host(host) = &recipe.base {
        body["base"] = json!(base::prepare(host, &directory, args.data_dir.as_deref()).await?.as_str());
    }
    let mut events = client.build_stream(body).await?;
    let mut answer = None;
    while let Some(mut event) = events.next().await? {
        match event["type"].as_str().unwrap_or_default() {
            "template" => {
                if let Some(fields) = event.as_object_mut() {
                    fields.remove("type");
                }
                answer = Some(event);
            }
            "error" => return Err(Failure::Other(format!("{shown}: {}", self::text(&event["error"], "message")))),
            "done" => break,
            _ => tell(&event)?,
        }
    }
    let answer = answer.ok_or_else(|| Failure::Other("the connection ended before the build did".to_owned()))?;
    let name = clean(&self::text(&answer["template"], "id"));
    context.output.value_or(&answer, || context.output.line(&name))?;
    Ok(0)
}

fn read_recipe(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let file = std::fs::File::open(path).map_err(Failure::io(format!("open {shown}")))?;
    let mut text = String::new();
    // One byte more than may be: the parser refuses it.
    let most = MAX_RECIPE_BYTES as u64 + 1;
    file.take(most).read_to_string(&mut text).map_err(Failure::io(format!("read {shown}")))?;
    Ok(text)
}

/// One line for each thing that happens, output as it is but for what could steer a terminal.
fn tell(event: &Value) -> io::Result<()> {
    let mut to = io::stderr().lock();
    let field = |name: &str| clean(&text(event, name));
    match event["type"].as_str().unwrap_or_default() {
        "build" => writeln!(to, "building {} in {} steps ({})", field("template"), field("steps"), field("id")),
        "waiting" => writeln!(to, "waiting for another build of this template"),
        "step" => {
            let cached = if event["cached"] == true { " (kept from an earlier build)" } else { "" };
            writeln!(to, "step {}, line {}: {}{cached}", field("step"), field("line"), field("title"))
        }
        "stdout" | "stderr" => {
            let data = text(event, "data");
            to.write_all(data.split_inclusive('\n').map(clean_line).collect::<String>().as_bytes())
        }
        "step_done" => writeln!(to, "step {} done in {} ms", field("step"), field("duration_ms")),
        "publishing" => writeln!(to, "putting the template together"),
        _ => Ok(()),
    }
}

fn clean_line(line: &str) -> String {
    match line.strip_suffix('\n') {
        Some(line) => format!("{}\n", clean(line)),
        None => clean(line),
    }
}

/// Everything that the recipe copies, by relative path. Links are refused: what they lead to was not meant to be sent
/// somewhere else, and may not be there.
fn collect(recipe: &Recipe, directory: &Path) -> Result<Map<String, Value>, Failure> {
    let mut found = Map::new();
    let mut bytes = 0;
    for source in recipe.sources() {
        let start = match source {
            "." => String::new(),
            source => source.to_owned(),
        };
        // Also none of the directories on the way may be a link.
        let mut on_the_way = PathBuf::from(directory);
        for part in start.split('/').filter(|part| !part.is_empty()) {
            on_the_way.push(part);
            let stat = std::fs::symlink_metadata(&on_the_way)
                .map_err(Failure::io(format!("look at {}", on_the_way.display())))?;
            refuse_link(&stat, &on_the_way)?;
        }
        let mut waiting = vec![start];
        while let Some(relative) = waiting.pop() {
            let path = directory.join(&relative);
            let stat = std::fs::symlink_metadata(&path).map_err(Failure::io(format!("look at {}", path.display())))?;
            if stat.is_dir() {
                for entry in std::fs::read_dir(&path).map_err(Failure::io(format!("list {}", path.display())))? {
                    let entry = entry.map_err(Failure::io(format!("list {}", path.display())))?;
                    let name = entry.file_name().into_string().map_err(|name| {
                        Failure::Other(format!("{}: the name {name:?} is not UTF-8", path.display()))
                    })?;
                    waiting.push(if relative.is_empty() { name } else { format!("{relative}/{name}") });
                }
                if !relative.is_empty() {
                    found.insert(relative, json!({}));
                }
            } else {
                refuse_link(&stat, &path)?;
                bytes += stat.len();
                if bytes > MAX_FILES_BYTES {
                    let message = format!("what the recipe copies is larger than {MAX_FILES_BYTES} bytes");
                    return Err(Failure::Other(format!(
                        "{message}; put large files into a base or fetch them in a step"
                    )));
                }
                let content = std::fs::read(&path).map_err(Failure::io(format!("read {}", path.display())))?;
                let mode = format!("{:04o}", stat.permissions().mode() & 0o777);
                found.insert(relative, json!({ "content": BASE64_STANDARD.encode(content), "mode": mode }));
            }
            if found.len() > MAX_FILES {
                return Err(Failure::Other(format!("the recipe copies more than {MAX_FILES} files and directories")));
            }
        }
    }
    Ok(found)
}

fn refuse_link(stat: &std::fs::Metadata, path: &Path) -> Result<(), Failure> {
    if stat.is_file() || stat.is_dir() {
        return Ok(());
    }
    let kind = if stat.is_symlink() { "a symbolic link" } else { "neither a file nor a directory" };
    Err(Failure::Other(format!("{} is {kind}; only files and directories can be copied", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(bits: u32) -> std::fs::Permissions {
        std::os::unix::fs::PermissionsExt::from_mode(bits)
    }

    fn recipe(copies: &[&str]) -> Recipe {
        let steps: String = copies.iter().map(|from| format!("[[step]]\ncopy = \"{from}\"\nto = \"/x\"\n")).collect();
        Recipe::parse(&format!("[base]\ntemplate = \"default\"\n{steps}")).unwrap()
    }

    #[test]
    fn what_is_copied_is_collected_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        std::fs::create_dir_all(at("app/empty")).unwrap();
        std::fs::write(at("app/main.py"), "print(1)").unwrap();
        std::fs::set_permissions(at("app/main.py"), mode(0o755)).unwrap();
        std::fs::write(at("one"), "1").unwrap();
        std::fs::write(at("secret"), "no").unwrap();
        let found = collect(&recipe(&["app", "one"]), folder.path()).unwrap();
        let names: Vec<_> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["app", "app/empty", "app/main.py", "one"]);
        assert_eq!(found["app/main.py"], json!({ "content": "cHJpbnQoMSk=", "mode": "0755" }));
        assert_eq!(found["app/empty"], json!({}));
        assert!(collect(&recipe(&["."]), folder.path()).unwrap().contains_key("secret"));
        assert!(collect(&recipe(&["missing"]), folder.path()).unwrap_err().to_string().contains("missing"));
    }

    #[test]
    fn links_are_not_followed_wherever_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        std::fs::create_dir_all(at("app/deep")).unwrap();
        std::fs::write(at("app/deep/f"), "1").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at("app/link")).unwrap();
        std::os::unix::fs::symlink("app", at("alias")).unwrap();
        for copied in ["app", "app/link", "alias", "alias/deep", "alias/deep/f"] {
            let refused = collect(&recipe(&[copied]), folder.path()).unwrap_err().to_string();
            assert!(refused.contains("is a symbolic link"), "{copied}: {refused}");
        }
    }
}
