//! The agent as a process: start, process 1, who may speak to it.

use std::time::Duration;

use forkpoint_runtime::agent_client::*;

use crate::harness::*;

#[test]
fn answers_a_ping_and_stays_small() {
    let agent = Agent::start();
    block_on(async {
        agent.client.ping(Duration::from_secs(5)).await.unwrap();
        let rss = agent.memory_kib("VmRSS");
        println!("idle resident memory: {rss} KiB");
        assert!(rss < 8 * 1024, "{rss} KiB");
    });
}

#[test]
fn as_process_one_it_reaps_orphans_and_cannot_be_killed_from_inside() {
    let agent = Agent::start_as_init();
    block_on(async {
        assert_eq!(agent.run(as_root(sh("echo $PPID"))).await.text(), "1");
        let kill = "for signal in TERM INT HUP KILL STOP QUIT SEGV; do kill -$signal 1; done; echo tried";
        assert_eq!(agent.run(as_root(sh(kill))).await.text(), "tried");
        // Each subshell leaves an orphan that ends at once.
        let orphans = "for i in $(seq 50); do (setsid true & ) ; done; echo done";
        assert_eq!(agent.sh(orphans).await.text(), "done");
        let mut processes = Vec::new();
        for _ in 0..200 {
            processes = agent.client.processes().await.unwrap();
            if processes.len() == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let left: Vec<_> = processes.iter().map(|p| (p.pid, p.state, String::from_utf8_lossy(&p.command))).collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(processes[0].pid, 1);
        let usage = agent.client.usage().await.unwrap();
        assert_eq!(usage.processes, 1);
        assert!(usage.disk_total_bytes >= usage.disk_free_bytes && usage.disk_total_bytes > 0);
    });
}

#[test]
fn its_memory_and_environment_are_closed_to_the_same_user() {
    let user = ["setpriv", "--reuid=61236", "--regid=61236", "--clear-groups"];
    let agent = Agent::start_with(&user, |config| config.default_user = "61236:61236".into());
    block_on(async {
        let own = agent.sh("cat /proc/self/environ >/dev/null && echo $PPID").await.text();
        assert_eq!(own, agent.pid().to_string());
        for file in ["environ", "maps", "mem", "fd/0", "auxv"] {
            let look = agent.sh(&format!("head -c 1 /proc/{own}/{file}")).await;
            let error = String::from_utf8_lossy(&look.stderr).into_owned();
            assert!(look.stdout.is_empty() && error.contains("Permission denied"), "{file}: {error}");
        }
    });
}

#[test]
fn local_peers_are_refused_where_that_is_configured() {
    let agent = Agent::start_with(&[], |config| config.refuse_local = true);
    block_on(async {
        let refused = agent.client.ping(Duration::from_secs(5)).await;
        assert!(matches!(refused, Err(AgentError::Lost { .. })), "{refused:?}");
    });
}

#[test]
fn a_refresh_changes_the_token() {
    let agent = Agent::start();
    block_on(async {
        let token = [9; 32];
        let refresh = Refresh { hostname: None, seed: vec![1; 64], token: Some(forkpoint_protocol::Token(token)) };
        agent.client.refresh(refresh).await.unwrap();
        assert!(agent.client.ping(Duration::from_secs(5)).await.is_err());
        AgentClient::new(agent.address, token).ping(Duration::from_secs(5)).await.unwrap();
        let over = Refresh { hostname: None, seed: vec![0; 4097], token: None };
        assert_eq!(kind(AgentClient::new(agent.address, token).refresh(over).await), ErrorKind::Invalid);
    });
}

#[test]
fn requests_over_the_limit_are_busy_and_come_through_later() {
    let agent = Agent::start_with(&[], |config| config.max_requests = 2);
    block_on(async {
        let one = agent.client.exec(sh("sleep 100")).await.unwrap();
        let _two = agent.client.exec(sh("sleep 100")).await.unwrap();
        assert_eq!(kind(agent.client.exec(sh("true")).await), ErrorKind::Busy);
        drop(one);
        for _ in 0..1000 {
            if agent.client.ping(Duration::from_secs(5)).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the slot was not given back");
    });
}
