//! The host's own settings come back, whoever leaves last; and what the host can do is told.

use crate::world::{UPLINK, forwarding, output, run};
use forkpoint_network::{Hub, HubOptions, probe, purge};

#[test]
fn the_last_hub_to_go_turns_forwarding_off() {
    run(|world| async move {
        assert_eq!(forwarding(UPLINK), "0");
        let first = Hub::open(world.options("00000001")).await.unwrap();
        let second = Hub::open(world.options("00000002")).await.unwrap();
        assert_eq!(forwarding(UPLINK), "1");
        drop((first, second));
        purge("00000001", &world.run_dir("00000001")).await.unwrap();
        assert_eq!(forwarding(UPLINK), "1", "the second still needs it");
        purge("00000002", &world.run_dir("00000002")).await.unwrap();
        assert_eq!(forwarding(UPLINK), "0");
    });
}

#[test]
fn forwarding_that_was_on_stays_on() {
    run(|world| async move {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        drop(world.hub().await);
        drop(world.hub().await);
        purge("00c0ffee", &world.run_dir("00c0ffee")).await.unwrap();
        assert_eq!(forwarding(UPLINK), "1");
    });
}

#[test]
fn without_the_link_the_file_still_knows_what_to_undo() {
    run(|world| async move {
        drop(world.hub().await);
        output("ip", "link del fp0");
        drop(world.hub().await);
        output("ip", "link del fp0");
        purge("00c0ffee", &world.run_dir("00c0ffee")).await.unwrap();
        assert_eq!(forwarding(UPLINK), "0");
    });
}

#[test]
fn an_uplink_of_choice_is_used_and_others_are_not_touched() {
    run(|world| async move {
        output("ip", "link add other0 type veth peer name spare");
        let options = HubOptions { uplinks: Some(vec!["other0".into()]), ..world.options("00c0ffee") };
        let hub = Hub::open(options).await.unwrap();
        assert_eq!((forwarding("other0").as_str(), forwarding(UPLINK).as_str()), ("1", "0"));
        drop(hub);
        let options = HubOptions { uplinks: Some(vec!["a\"; b".into()]), ..world.options("00c0ffee") };
        assert!(Hub::open(options).await.unwrap_err().to_string().contains("uplinks"));
    });
}

#[test]
fn the_probe_tells_what_works_and_which_firewall_is_in_the_way() {
    run(|world| async move {
        let before = world.picture();
        let found = probe().await;
        for check in [&found.namespaces, &found.veth, &found.nft, &found.conntrack, &found.ip_forward] {
            assert!(check.ok, "{check:?}");
        }
        assert!(found.other_firewalls.ok, "{found:?}");
        assert_eq!(before, world.picture());
        output("nft", "add table ip filter");
        output("nft", "add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }");
        let found = probe().await;
        assert!(!found.other_firewalls.ok);
        assert!(found.other_firewalls.detail.contains("ip filter FORWARD"), "{found:?}");
    });
}
