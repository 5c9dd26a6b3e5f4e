//! Templates built by recipes, with the real server, its own sandboxes and the program.
#![allow(clippy::unwrap_used)]

mod support;

use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};
use support::Server;

fn forkpoint(server: &Server, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_forkpoint"))
        .args(arguments)
        .env("FORKPOINT_URL", &server.url)
        .env("FORKPOINT_KEY", &server.key)
        .output()
        .unwrap()
}

/// Builds by the program; gives what it printed.
#[track_caller]
fn build(server: &Server, recipe: &Path, more: &[&str]) -> Value {
    let mut arguments = vec!["template", "build", recipe.to_str().unwrap(), "--json"];
    arguments.extend(more);
    let output = forkpoint(server, &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(server: &Server, recipe: &Path, more: &[&str]) -> String {
    let mut arguments = vec!["template", "build", recipe.to_str().unwrap()];
    arguments.extend(more);
    let output = forkpoint(server, &arguments);
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

/// A build's events by the API, up to `done`.
async fn events(server: &Server, body: Value) -> Vec<Value> {
    let mut body = body;
    body["stream"] = json!(true);
    let request = server.client.post(format!("{}/api/v1/templates", server.url));
    let answer = request.header("Authorization", format!("ApiKey {}", server.key)).json(&body).send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{text}");
    text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|one| serde_json::from_str(one).unwrap()).collect()
}

fn of<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["type"] == kind).collect()
}

fn recipe(steps: &str) -> String {
    format!("name = \"made\"\n[base]\ntemplate = \"default\"\n{steps}")
}

fn run(command: &str) -> String {
    format!("[[step]]\nrun = '''{command}'''\n")
}

/// Something that is different each time the step runs.
fn stamp(file: &str) -> String {
    run(&format!("cat /proc/sys/kernel/random/uuid > {file}"))
}

async fn nothing_is_left(server: &Server, layers_of_steps: u64) {
    server.owns(&[("cgroups", 0), ("layers", layers_of_steps)]).await;
    assert_eq!(server.get("/sandboxes").await.ok()["sandboxes"], json!([]));
    assert_eq!(server.get("/checkpoints").await.ok()["checkpoints"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_is_built_and_only_what_changed_is_done_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    std::fs::create_dir_all(at("app/empty")).unwrap();
    std::fs::write(at("app/main.sh"), "#!/bin/sh\necho main\n").unwrap();
    std::os::unix::fs::symlink("main.sh", at("beside")).unwrap();
    let text = |last: &str| {
        [
            "name = \"web\"\ndescription = \"A web app\"\ncategory = \"web\"\nuser = \"app\"\n",
            "[base]\ntemplate = \"default\"\n[environment]\nMODE = \"production\"\n",
            &run("useradd --create-home --uid 4000 app"),
            &stamp("/opt/first"),
            "[[step]]\nrun = [\"sh\", \"-c\", \"id -un > /tmp/who; echo $MODE $MORE > /tmp/env; pwd > /tmp/where\"]\n",
            "user = \"app\"\nworking_dir = \"/opt\"\nenv = { MORE = \"more\" }\n",
            "[[step]]\nwrite = \"/etc/app/app.conf\"\ncontent = \"a = 1\\n\"\nmode = \"0640\"\nowner = \"root:app\"\n",
            "[[step]]\ncopy = \"app\"\nto = \"/srv/app\"\nowner = \"app\"\n",
            &stamp("/opt/second"),
            last,
            "[[service]]\nname = \"clock\"\ncommand = \"echo $MODE > /tmp/served; exec sleep 1000\"\n",
        ]
        .concat()
    };
    std::fs::write(at("web.toml"), text(&run("echo one > /opt/last"))).unwrap();
    let server = Server::start().await;
    let first = build(&server, &at("web.toml"), &[]);
    assert_eq!((&first["cached_steps"], &first["unchanged"]), (&json!(0), &json!(false)));
    assert_eq!(first["template"]["user"], "app");
    nothing_is_left(&server, 7).await;

    let made = |server: &Server| {
        let (client, key, url) = (server.client.clone(), server.key.clone(), server.url.clone());
        async move {
            let request =
                client.post(format!("{url}/api/v1/sandbox/create")).header("Authorization", format!("ApiKey {key}"));
            let answer: Value = request.json(&json!({ "template": "web" })).send().await.unwrap().json().await.unwrap();
            answer["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
        }
    };
    let sb = made(&server).await;
    assert_eq!(
        server.sh(&sb, "id -un; echo $MODE; cat /tmp/who /tmp/env /tmp/where /opt/last").await,
        "app\nproduction\napp\nproduction more\n/opt\none\n"
    );
    assert_eq!(
        server
            .sh(&sb, "stat -c '%a %U:%G %n' /etc/app/app.conf /srv/app/main.sh /srv/app/empty; cat /srv/app/main.sh")
            .await,
        "640 root:app /etc/app/app.conf\n644 app:app /srv/app/main.sh\n755 app:app /srv/app/empty\n#!/bin/sh\necho main\n"
    );
    let terminals = server.get(&format!("/sandbox/{sb}/terminals")).await.ok();
    assert!(terminals.to_string().contains("exec sleep 1000"), "the service runs: {terminals}");
    server.sh(&sb, "until [ -s /tmp/served ]; do :; done; grep -x production /tmp/served").await;
    // It starts again with the sandbox.
    server.post(&format!("/sandbox/{sb}/stop"), json!({})).await.ok();
    server.post(&format!("/sandbox/{sb}/start"), json!({})).await.ok();
    let terminals = server.get(&format!("/sandbox/{sb}/terminals")).await.ok();
    assert_eq!(terminals["terminals"].as_array().map(Vec::len), Some(1), "{terminals}");
    let stamps = "cat /opt/first /opt/second";
    let before = server.sh(&sb, stamps).await;
    server.delete(&format!("/sandbox/{sb}")).await.ok();

    let started = Instant::now();
    let again = build(&server, &at("web.toml"), &[]);
    eprintln!(
        "rebuild of an unchanged recipe: {} ms at the server, {:?} with the program",
        again["duration_ms"],
        started.elapsed()
    );
    assert_eq!((&again["cached_steps"], &again["unchanged"]), (&json!(7), &json!(true)));
    assert_eq!(again["template"], first["template"]);

    // The last step is another one: those before keep what they made.
    std::fs::write(at("web.toml"), text(&run("echo two > /opt/last"))).unwrap();
    let changed = build(&server, &at("web.toml"), &[]);
    assert_eq!((&changed["cached_steps"], &changed["unchanged"]), (&json!(6), &json!(false)));
    let sb = made(&server).await;
    assert_eq!(server.sh(&sb, stamps).await, before);
    assert_eq!(server.sh(&sb, "cat /opt/last").await, "two\n");
    server.delete(&format!("/sandbox/{sb}")).await.ok();

    // A file that is copied changes: what comes before stays, what comes behind is done again.
    std::fs::write(at("app/main.sh"), "changed\n").unwrap();
    assert_eq!(build(&server, &at("web.toml"), &[])["cached_steps"], 4);
    let sb = made(&server).await;
    let now = server.sh(&sb, stamps).await;
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&now)[0], lines(&before)[0]);
    assert_ne!(lines(&now)[1], lines(&before)[1]);
    server.delete(&format!("/sandbox/{sb}")).await.ok();

    assert_eq!(build(&server, &at("web.toml"), &["--no-cache"])["cached_steps"], 0);
    let sb = made(&server).await;
    assert_ne!(lines(&server.sh(&sb, stamps).await)[0], lines(&now)[0]);
    server.delete(&format!("/sandbox/{sb}")).await.ok();
    // Of earlier builds nothing is left that nobody uses.
    let versions = || {
        std::fs::read_dir(server.data_dir().join("templates/web"))
            .unwrap()
            .filter(|one| one.as_ref().unwrap().path().is_dir())
            .count()
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while versions() > 1 {
        assert!(Instant::now() < deadline, "{} versions", versions());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.delete("/templates/web").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_step_is_named_with_its_line_and_leaves_no_template() {
    let server = Server::start().await;
    let text = recipe(&(run("echo hello; echo oops >&2") + &run("echo before >&2; exit 3") + &stamp("/never")));
    let told = events(&server, json!({ "recipe": text })).await;
    assert_eq!(of(&told, "build")[0]["steps"], 3);
    assert_eq!(
        (&of(&told, "stdout")[0]["data"], &of(&told, "stderr")[0]["data"]),
        (&json!("hello\n"), &json!("oops\n"))
    );
    let error = &of(&told, "error")[0]["error"];
    assert_eq!(error["code"], "step_failed");
    assert_eq!(error["details"], json!({ "line": 6, "column": 1, "step": 2 }));
    assert_eq!(error["message"], "line 6, column 1, step 2: run: ended with exit code 3: before");
    assert_eq!(told.last().unwrap()["type"], "done");
    nothing_is_left(&server, 1).await;
    server.get("/templates/made").await.refused(404, "not_found");

    // Without a stream the refusal is the answer, and the step that was done stays done.
    let refusal = server.post("/templates", json!({ "recipe": text })).await.refused(409, "step_failed");
    assert_eq!(refusal["details"]["step"], 2);
    let cases = [
        (run("sleep 100").replace("[[step]]", "[[step]]\ntimeout_seconds = 1"), "run: was killed after 1 seconds"),
        (run("true").replace("[[step]]", "[[step]]\nuser = \"nobody-here\""), "nobody-here"),
        (run("true").replace("[[step]]", "[[step]]\nworking_dir = \"/nowhere\""), "/nowhere"),
        ("[[step]]\nrun = [\"no-such-program\"]\n".to_owned(), "no-such-program"),
        ("[[step]]\nwrite = \"/etc/passwd/x\"\ncontent = \"\"\n".to_owned(), "/etc/passwd"),
        ("[[step]]\nwrite = \"/x\"\ncontent = \"\"\nowner = \"nobody-here\"\n".to_owned(), "nobody-here"),
    ];
    for (step, expected) in cases {
        let refusal = server.post("/templates", json!({ "recipe": recipe(&step) })).await.refused(409, "step_failed");
        let message = refusal["message"].as_str().unwrap();
        assert!(message.starts_with("line 4, column 1, step 1: ") && message.contains(expected), "{message}");
    }
    let wrong_user = format!("user = \"missing\"\n{}", recipe(""));
    let refusal = server.post("/templates", json!({ "recipe": wrong_user })).await.refused(400, "invalid_request");
    assert_eq!(refusal["details"]["field"], "user");
    let service = recipe("[[service]]\nname = \"web\"\ncommand = [\"/no/such/program\"]\n");
    let refusal = server.post("/templates", json!({ "recipe": service })).await.refused(409, "service_failed");
    assert!(refusal["message"].as_str().unwrap().contains("'web'"), "{refusal}");
    nothing_is_left(&server, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_built_are_refused_before_anything_is_done() {
    let server = Server::start().await;
    let copy = recipe("[[step]]\ncopy = \"app\"\nto = \"/srv\"\n");
    let host = "name = \"made\"\n[base]\ndirectory = \"/etc\"\n";
    let file = |content: &str| json!({ "app": { "content": content } });
    let cases = [
        (json!({}), "recipe: is required"),
        (json!({ "recipe": "[base]\ntemplate = \"default\"\n" }), "name: is in neither the request nor the recipe"),
        (json!({ "recipe": recipe(""), "name": "default" }), "name: is the server's own template"),
        (json!({ "recipe": recipe(""), "name": "No Name" }), "name: must be 1 to 64"),
        (json!({ "recipe": recipe("[[step]]\nrum = 1\n") }), "recipe: line 5, column 1, step 1: unknown field `rum`"),
        (json!({ "recipe": recipe("").replace("default", "nothing") }), "[base]: there is no template 'nothing'"),
        (json!({ "recipe": copy }), "recipe: line 4, column 1, step 1: copy: no 'app' was sent with the recipe"),
        (json!({ "recipe": copy, "files": file("?") }), "files.app.content: is not base64"),
        (json!({ "recipe": copy, "files": { "app": {}, "../x": {} } }), "files.../x: must be a relative path"),
        (
            json!({ "recipe": copy, "files": { "app": { "content": "" }, "app/x": {} } }),
            "files.app/x: lies below a file",
        ),
        (json!({ "recipe": host }), "only its operator can take it from"),
        (json!({ "recipe": recipe(""), "base": "default" }), "base: goes with a recipe whose [base]"),
        (json!({ "recipe": recipe(""), "surprise": 1 }), "surprise: unknown field"),
    ];
    for (body, expected) in cases {
        let refusal = server.post("/templates", body.clone()).await.refused(400, "invalid_request");
        let message = refusal["message"].as_str().unwrap();
        assert!(message.contains(expected), "{body}: {message}");
    }
    let unknown = "cp-01890a5d-ac96-774b-bcce-b302099a8057";
    let body = json!({ "recipe": format!("name = \"a\"\n[base]\ncheckpoint = \"{unknown}\"\n") });
    server.post("/templates", body).await.refused(404, "not_found");
    let label = json!({ "metadata": { "forkpoint.build": "bld-1" } });
    server.post("/sandbox/create", label).await.refused(400, "invalid_request");
    nothing_is_left(&server, 0).await;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.toml");
    std::fs::write(&file, recipe("[[step]]\nrun = 1\n")).unwrap();
    let said = refused(&server, &file, &[]);
    assert!(said.contains("bad.toml: line 5, column 7, step 1: "), "{said}");
    std::fs::write(&file, host).unwrap();
    let said = refused(&server, &file, &[]);
    assert!(said.contains("give --data-dir"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_in_the_middle_of_a_build_leaves_its_finished_steps_alone() {
    let mut server = Server::start().await;
    let text = recipe(&(stamp("/opt/first") + &run("echo sleeping; sleep 1000")));
    let request = server.client.post(format!("{}/api/v1/templates", server.url));
    let request = request.header("Authorization", format!("ApiKey {}", server.key));
    let answer = request.json(&json!({ "recipe": text, "stream": true })).send().await.unwrap();
    let mut pieces = answer.bytes_stream();
    let mut seen = String::new();
    while !seen.contains("sleeping\\n") {
        seen += std::str::from_utf8(&pieces.next().await.unwrap().unwrap()).unwrap();
    }
    assert_eq!(server.get("/sandboxes").await.ok()["sandboxes"].as_array().unwrap().len(), 1);
    server.kill();
    server.launch().await;
    nothing_is_left(&server, 1).await;
    server.get("/templates/made").await.refused(404, "not_found");
    let text = recipe(&(stamp("/opt/first") + &run("echo done")));
    let built = server.post("/templates", json!({ "recipe": text })).await.ok();
    assert_eq!(built["cached_steps"], 1);
    nothing_is_left(&server, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_ends_the_build_unless_it_is_to_keep_going() {
    let server = Server::start().await;
    let begin = async |recipe: String, keep_going: bool| {
        let request = server.client.post(format!("{}/api/v1/templates", server.url));
        let request = request.header("Authorization", format!("ApiKey {}", server.key));
        let body = json!({ "recipe": recipe, "stream": true, "keep_going": keep_going });
        let mut pieces = request.json(&body).send().await.unwrap().bytes_stream();
        let mut seen = String::new();
        while !seen.contains("begun\\n") {
            seen += std::str::from_utf8(&pieces.next().await.unwrap().unwrap()).unwrap();
        }
    };
    begin(recipe(&run("echo begun; sleep 1000")), false).await;
    nothing_is_left(&server, 0).await;
    begin(recipe(&run("echo begun; sleep 1")), true).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.get("/templates/made").await.status != 200 {
        assert!(Instant::now() < deadline, "{}", server.logged());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    nothing_is_left(&server, 1).await;
    // A server that ends does not wait for builds.
    begin(recipe(&run("echo begun; sleep 1000")), true).await;
    let mut server = server;
    let started = Instant::now();
    server.stop();
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    server.launch().await;
    nothing_is_left(&server, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_steps_left_is_bounded_and_the_least_used_goes_first() {
    let server = Server::start_with(&[("build_cache_layers", "2")]).await;
    let text = recipe(&(stamp("/opt/a") + &stamp("/opt/b") + &stamp("/opt/c")));
    server.post("/templates", json!({ "recipe": text })).await.ok();
    nothing_is_left(&server, 2).await;
    // The last one stands for all before.
    let again = server.post("/templates", json!({ "recipe": text })).await.ok();
    assert_eq!((&again["cached_steps"], &again["unchanged"]), (&json!(3), &json!(true)));
    let other = recipe(&(stamp("/opt/a") + &stamp("/opt/other")));
    assert_eq!(server.post("/templates", json!({ "recipe": other })).await.ok()["cached_steps"], 0);
    nothing_is_left(&server, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_come_from_the_sandboxs_own_apt_and_failures_say_what_apt_said() {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("bash")
        .args(["-euc", "for n in one two; do mkdir -p $n/DEBIAN $n/opt/$n; echo $n > $n/opt/$n/file
            printf 'Package: fp-%s\\nVersion: 1.0\\nArchitecture: all\\nMaintainer: nobody <nobody@example.invalid>\\nDescription: test\\n' $n > $n/DEBIAN/control
            dpkg-deb --root-owner-group --build $n fp-$n.deb >/dev/null; done
            mkdir repo; mv fp-two.deb repo; cd repo
            { dpkg-deb -f fp-two.deb; echo Filename: ./fp-two.deb; echo Size: $(stat -c %s fp-two.deb); echo SHA256: $(sha256sum fp-two.deb | cut -d' ' -f1); echo; } > Packages"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // Only the repository that the recipe brings along: nothing is asked of the network.
    let text = "name = \"made\"\n[base]\ntemplate = \"default\"\n\
        [[step]]\nrun = \"rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*; echo 'deb [trusted=yes] file:/opt/repo ./' > /etc/apt/sources.list.d/local.list\"\n\
        [[step]]\ncopy = \"repo\"\nto = \"/opt/repo\"\n\
        [[step]]\ncopy = \"fp-one.deb\"\nto = \"/opt/fp-one.deb\"\n\
        [[step]]\npackages = [\"/opt/fp-one.deb\", \"fp-two=1.0\"]\n";
    let file = folder.path().join("packages.toml");
    std::fs::write(&file, text).unwrap();
    let server = Server::start().await;
    build(&server, &file, &[]);
    let sb = server.sandbox_with(json!({ "template": "made" })).await;
    assert_eq!(server.sh(&sb, "cat /opt/one/file /opt/two/file; dpkg-query -W -f '${Package} ${Status}\\n' fp-one fp-two; ls /var/lib/apt/lists | wc -l").await,
        "one\ntwo\nfp-one install ok installed\nfp-two install ok installed\n0\n");
    server.delete(&format!("/sandbox/{sb}")).await.ok();
    std::fs::write(&file, text.replace("fp-two=1.0", "fp-three")).unwrap();
    let said = refused(&server, &file, &[]);
    assert!(
        said.contains("line 12, column 1, step 4: packages: ended with exit code 100")
            && said.contains("Unable to locate package fp-three"),
        "{said}"
    );
    nothing_is_left(&server, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_starts_from_a_directory_of_the_operators_a_template_or_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    std::fs::create_dir_all(at("root/etc")).unwrap();
    std::fs::write(at("root/etc/motd"), "hello\n").unwrap();
    // Nothing runs in it, so it needs no programs.
    let text =
        "name = \"made\"\n[base]\ndirectory = \"root\"\n[[step]]\nwrite = \"/etc/more\"\ncontent = \"more\\n\"\n";
    std::fs::write(at("r.toml"), text).unwrap();
    let server = Server::start().await;
    let data_dir = server.data_dir();
    let operator = ["--data-dir", data_dir.to_str().unwrap()];
    build(&server, &at("r.toml"), &operator);
    assert_eq!(build(&server, &at("r.toml"), &operator)["unchanged"], true);
    let sb = server.sandbox_with(json!({ "template": "made" })).await;
    let read = async |sb: &str, path: &str| server.get(&format!("/sandbox/{sb}/files/raw?path={path}")).await.ok();
    assert_eq!((read(&sb, "/etc/motd").await, read(&sb, "/etc/more").await), (json!("hello\n"), json!("more\n")));
    std::fs::write(at("root/etc/motd"), "changed\n").unwrap();
    assert_eq!(build(&server, &at("r.toml"), &operator)["cached_steps"], 0);
    let newer = server.sandbox_with(json!({ "template": "made" })).await;
    assert_eq!(read(&newer, "/etc/motd").await, "changed\n");
    assert_eq!(read(&sb, "/etc/motd").await, "hello\n", "what was made from the old one stays on it");

    // A template that a recipe made, and one of its sandboxes' checkpoints, are bases like any other.
    let upon = "name = \"upon\"\n[base]\ntemplate = \"made\"\n[[step]]\nwrite = \"/etc/upon\"\ncontent = \"upon\"\n";
    server.post("/templates", json!({ "recipe": upon })).await.ok();
    server
        .post(
            &format!("/sandbox/{newer}/files"),
            json!({ "files": [{ "path": "/workspace/mine", "content": "bWluZQo=" }] }),
        )
        .await
        .ok();
    let checkpoint = server.checkpoint(&newer, json!({ "name": "c" })).await;
    let upon = format!("name = \"from-checkpoint\"\n[base]\ncheckpoint = \"{checkpoint}\"\n");
    server.post("/templates", json!({ "recipe": upon })).await.ok();
    let sb = server.sandbox_with(json!({ "template": "upon" })).await;
    assert_eq!((read(&sb, "/etc/motd").await, read(&sb, "/etc/upon").await), (json!("changed\n"), json!("upon")));
    let sb = server.sandbox_with(json!({ "template": "from-checkpoint" })).await;
    assert_eq!((read(&sb, "/etc/more").await, read(&sb, "/workspace/mine").await), (json!("more\n"), json!("mine\n")));
    let stranger = server.register("Strangers").await;
    let body = json!({ "recipe": upon });
    server.call_as(&stranger, Method::POST, "/templates", Some(body)).await.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_builds_of_one_recipe_do_its_steps_once() {
    let server = Server::start().await;
    let body = json!({ "recipe": recipe(&stamp("/opt/a")) });
    let (one, other) = tokio::join!(server.post("/templates", body.clone()), server.post("/templates", body));
    let (one, other) = (one.ok(), other.ok());
    assert_eq!(one["template"], other["template"]);
    let done = |built: &Value| built["cached_steps"].as_u64().unwrap();
    assert_eq!(done(&one) + done(&other), 1, "{one} {other}");
    nothing_is_left(&server, 1).await;
}
