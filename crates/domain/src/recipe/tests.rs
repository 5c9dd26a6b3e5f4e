//! What recipes are understood, and how bad ones are refused.

use super::*;

const FULL: &str = r#"
name = "web"
description = "A web server"
category = "web"
tags = ["python"]
user = "app"

[base]
template = "default"

[environment]
MODE = "production"

[[step]]
packages = ["curl", "libc6:amd64", "g++", "jq=1.6-2.1+deb12u1", "/tmp/local.deb"]

[[step]]  # comments are no hindrance
run = "useradd --create-home app"

[[step]]
run = ["make", "install"]
user = "app"
working_dir = "/srv//app/"
env = { PREFIX = "/usr" }
timeout_seconds = 60

[[step]]
write = "/etc/app.conf"
content = "a = 1\n"
mode = "0640"
owner = "root:app"

[[step]]
copy = "./src/"
to = "/srv/app"
owner = "1000"

[[step]]
pip = ["requests==2.32"]

[[step]]
npm = ["@scope/tool@1"]

[[service]]
name = "web"
command = "exec python3 -m http.server"
working_dir = "/srv/app"
"#;

#[test]
fn a_full_recipe_is_understood() {
    let recipe = Recipe::parse(FULL).unwrap();
    assert_eq!(recipe.base, Base::Template(TemplateName::parse("default").unwrap()));
    assert_eq!(recipe.steps.len(), 7);
    assert_eq!(recipe.steps[1].line, 17);
    let Action::Run { command, user, working_dir, timeout_seconds, .. } = &recipe.steps[2].action else { panic!() };
    assert_eq!(*command, RunCommand::Argv(vec!["make".into(), "install".into()]));
    assert_eq!((user.as_str(), working_dir.as_deref(), *timeout_seconds), ("app", Some("/srv/app"), 60));
    assert_eq!(
        recipe.steps[3].action,
        Action::Write {
            path: "/etc/app.conf".into(),
            content: "a = 1\n".into(),
            mode: Some(0o640),
            owner: "root:app".into()
        }
    );
    assert_eq!(recipe.sources().collect::<Vec<_>>(), ["src"]);
    let service = &recipe.services.unwrap()[0];
    assert_eq!(service.command, ["/bin/sh", "-c", "exec python3 -m http.server"]);
}

#[test]
fn bad_recipes_are_refused_with_line_column_and_step() {
    let base = "[base]\ntemplate = \"default\"\n";
    let with = |rest: &str| format!("{base}{rest}");
    let cases: &[(String, &str)] = &[
        (String::new(), "line 1, column 1: the recipe has no [base]"),
        ("[base\n".into(), "line 1, column 6: "),
        ("[base]\n".into(), "line 1, column 1: [base] must have exactly one of template, checkpoint"),
        ("[base]\ntemplate = \"a\"\noci = \"x\"\n".into(), "line 1, column 1: [base] must have exactly one of"),
        ("[base]\ntemplate = \"A b\"\n".into(), "line 2, column 12: 'template' must be 1 to 64 of a-z"),
        ("[base]\ncheckpoint = \"cp-1\"\n".into(), "line 2, column 14: 'checkpoint' is not a valid id"),
        ("[base]\ndebian = \"Book worm\"\n".into(), "line 2, column 10: 'debian' must be the name of a release"),
        ("[base]\ndirectory = \"/x\"\nimage = \"a\"\n".into(), "line 3, column 9: 'image' goes with"),
        (with("nmae = 1\n"), "line 3, column 1: unknown field `nmae`"),
        (with("[[step]]\nrum = \"x\"\n"), "line 4, column 1, step 1: unknown field `rum`"),
        (with("[[step]]\nrun = \"a\"\n[[step]]\n"), "line 5, column 1, step 2: says nothing to do"),
        (with("[[step]]\nrun = \"a\"\npip = [\"b\"]\n"), "step 1: 'pip' and 'run' are two steps"),
        (with("[[step]]\nrun = 5\n"), "line 4, column 7, step 1: "),
        (with("[[step]]\nrun = \" \"\n"), "line 4, column 7, step 1: 'run' must not be empty"),
        (with("[[step]]\nrun = []\n"), "line 4, column 7, step 1: 'run' must not be empty"),
        (
            with("[[step]]\nrun = \"a\"\ncontent = \"x\"\n"),
            "line 5, column 11, step 1: 'content' means nothing for 'run'",
        ),
        (with("[[step]]\nrun = \"a\"\nuser = \"-x\"\n"), "line 5, column 8, step 1: 'user' must be user[:group]"),
        (
            with("[[step]]\nrun = \"a\"\nworking_dir = \"x\"\n"),
            "line 5, column 15, step 1: 'working_dir' must be absolute",
        ),
        (with("[[step]]\nrun = \"a\"\ntimeout_seconds = 0\n"), "line 5, column 19, step 1: 'timeout_seconds' must be"),
        (with("[[step]]\nrun = \"a\"\nenv = { \"A=B\" = \"1\" }\n"), "line 5, column 7, step 1: env"),
        (with("[[step]]\npackages = []\n"), "line 4, column 12, step 1: 'packages' must name 1 to 500"),
        (with("[[step]]\npackages = [\"--force\"]\n"), "'packages': \"--force\" is no package name"),
        (with("[[step]]\npackages = [\"curl-\"]\n"), "'packages': \"curl-\" is no package name"),
        (with("[[step]]\npackages = [\"/tmp/../x.deb\"]\n"), "is no package name"),
        (with("[[step]]\npip = [\"-r\"]\n"), "'pip': \"-r\" is no package name"),
        (with("[[step]]\nwrite = \"/a\"\n"), "line 3, column 1, step 1: 'write' needs 'content'"),
        (with("[[step]]\nwrite = \"a\"\ncontent = \"\"\n"), "line 4, column 9, step 1: 'write' must be absolute"),
        (
            with("[[step]]\nwrite = \"/a\"\ncontent = \"\"\nmode = \"999\"\n"),
            "line 6, column 8, step 1: 'mode' must be octal",
        ),
        (with("[[step]]\ncopy = \"../x\"\nto = \"/x\"\n"), "line 4, column 8, step 1: 'copy' must be a relative path"),
        (
            with("[[step]]\ncopy = \"/etc/shadow\"\nto = \"/x\"\n"),
            "line 4, column 8, step 1: 'copy' must be a relative path",
        ),
        (with("[[step]]\ncopy = \"x\"\n"), "line 3, column 1, step 1: 'copy' needs 'to'"),
        (with("[[service]]\nname = \"a b\"\ncommand = \"x\"\n"), "line 4, column 8: 'name' must be 1 to 64"),
        (with("[[service]]\nname = \"a\"\ncommand = []\n"), "line 5, column 11: 'command' must not be empty"),
        (with(&"[[step]]\nrun = \"a\"\n".repeat(101)), "line 203, column 1, step 101: a recipe has at most 100 steps"),
        (with("[environment]\nA = 1\n"), "line 4, column 5: "),
    ];
    for (text, expected) in cases {
        let refusal = Recipe::parse(text).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{text}\n gave: {refusal}\n want: {expected}");
    }
    let large = format!("# {}\n", "x".repeat(MAX_RECIPE_BYTES));
    assert!(Recipe::parse(&large).unwrap_err().problem.contains("larger than"));
}

#[test]
fn everything_that_decides_a_steps_outcome_is_in_its_serialised_form() {
    let text = |run: &str| format!("[base]\ntemplate = \"default\"\n[[step]]\n{run}\n");
    let form = |run: &str| serde_json::to_string(&Recipe::parse(&text(run)).unwrap().steps[0].action).unwrap();
    let forms = [
        "run = \"a\"",
        "run = [\"a\"]",
        "run = \"a\"\nuser = \"app\"",
        "run = \"a\"\nworking_dir = \"/tmp\"",
        "run = \"a\"\nenv = { A = \"1\" }",
        "pip = [\"a\"]",
        "npm = [\"a\"]",
        "packages = [\"aa\"]",
        "write = \"/a\"\ncontent = \"x\"",
        "write = \"/a\"\ncontent = \"x\"\nmode = \"0600\"",
        "write = \"/a\"\ncontent = \"x\"\nowner = \"app\"",
        "copy = \"a\"\nto = \"/a\"",
    ]
    .map(form);
    let distinct: std::collections::BTreeSet<_> = forms.iter().collect();
    assert_eq!(distinct.len(), forms.len());
}
