//! The local runtime with real layers, jails, slots and agents.
#![allow(clippy::unwrap_used)]

use forkpoint_domain::{
    checkpoint::CaptureLimits,
    ids::{LayerId, OrgId, SandboxId},
    limits::Limits,
    restore::{TreeRef, plan_create, plan_fork},
    scope::Scope,
    template::{TemplateName, TemplateRef},
};
use forkpoint_engine::ports::{
    guest::{Command, ExecEvent, ExecSpec},
    runtime::{Launch, Runtime},
};
use forkpoint_runtime::local::{self, LocalOptions, LocalRuntime};
use futures::StreamExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

fn options(data_dir: &Path) -> LocalOptions {
    // target/debug/deps/<test> -> target/debug
    let program_dir = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
    LocalOptions {
        data_dir: data_dir.to_owned(),
        program_dir,
        cache_dir: "/var/cache/forkpoint".into(),
        layers: Default::default(),
        network_pool: "10.213.0.0/18".parse().unwrap(),
        resolvers: None,
        slot_pool: 1,
    }
}

async fn open(data_dir: &Path) -> (LocalRuntime, TemplateRef) {
    let runtime = LocalRuntime::open(options(data_dir)).await.unwrap();
    let store = runtime.templates().clone();
    tokio::task::spawn_blocking(move || store.ensure_default(&mut |_| {})).await.unwrap().unwrap();
    let anybody = OrgId::from_uuid(Uuid::nil());
    let template = runtime.template(anybody, &TemplateName::default()).await.unwrap().unwrap().template;
    (runtime, template)
}

async fn sh(runtime: &LocalRuntime, sandbox: SandboxId, command: &str) -> String {
    let spec = ExecSpec {
        command: Command::Shell(command.into()),
        env: Default::default(),
        working_dir: None,
        user: None,
        timeout_ms: Some(20_000),
        stdin: None,
        output_limit: 1 << 20,
    };
    let mut events = runtime.guest(sandbox).unwrap().exec(spec).await.unwrap();
    let mut output = String::new();
    while let Some(event) = events.next().await {
        match event {
            ExecEvent::Stdout(data) | ExecEvent::Stderr(data) => output += &String::from_utf8_lossy(&data),
            ExecEvent::Exit(exit) => assert_eq!(exit.code, 0, "{command}: {output}"),
            ExecEvent::Lost(why) => panic!("{why}"),
        }
    }
    output
}

fn ids() -> (SandboxId, LayerId) {
    (SandboxId::from_uuid(Uuid::now_v7()), LayerId::from_uuid(Uuid::now_v7()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_captured_forked_adopted_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data_dir: PathBuf = folder.path().join("data");
    std::fs::create_dir(&data_dir).unwrap();
    let (runtime, template) = open(&data_dir).await;
    let (sandbox, layer) = ids();
    eprintln!("opened");
    runtime.make_layer(layer, &plan_create(&template)).await.unwrap();
    let launch = |sandbox, layer| Launch { sandbox, template: template.clone(), layer, limits: Limits::default() };
    runtime.launch(&launch(sandbox, layer)).await.unwrap();
    eprintln!("launched");
    assert_eq!(sh(&runtime, sandbox, "id -un; echo 1 > /workspace/f; cat /workspace/f").await, "sandbox\n1\n");

    eprintln!("ran");
    let (fork, fork_layer) = ids();
    let saved = LayerId::from_uuid(Uuid::now_v7());
    runtime.capture(sandbox, layer, saved).await.unwrap();
    sh(&runtime, sandbox, "echo 2 > /workspace/f").await;
    let tree = TreeRef { template: template.clone(), layer: Some(saved) };
    let found = runtime.measure(&tree, &Scope::everything(), CaptureLimits::default()).await.unwrap();
    assert_eq!((found.file_count, found.size_bytes), (1, 2));
    runtime.make_layer(fork_layer, &plan_fork(&tree, &Scope::everything())).await.unwrap();
    runtime.launch(&launch(fork, fork_layer)).await.unwrap();
    assert_eq!(sh(&runtime, fork, "cat /workspace/f").await, "1\n");

    // The next runtime on the directory takes both over.
    drop(runtime);
    let (runtime, _) = open(&data_dir).await;
    assert_eq!(runtime.instances().await.unwrap().len(), 2);
    assert_eq!(sh(&runtime, sandbox, "cat /workspace/f").await, "2\n");
    runtime.end(sandbox).await.unwrap();
    runtime.end(fork).await.unwrap();
    for layer in runtime.layers().await.unwrap() {
        runtime.drop_layer(layer).await.unwrap();
    }
    drop(runtime);
    local::purge(&data_dir).await.unwrap();
    assert_eq!(local::owned(&data_dir).await.unwrap(), local::Owned::default());
    assert_eq!(std::fs::read_dir(&data_dir).unwrap().count(), 0);
}
