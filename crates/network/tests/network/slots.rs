//! What a slot is, and how its number comes and goes.

use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};
use std::process::{Child, Command};

use crate::world::{OUTSIDE, call, connect, eventually, inside, ip, output, run, serve};
use forkpoint_network::{Error, Hub, Slot};

/// Links of slots in a hub.
pub(crate) fn links(world: &crate::world::World) -> Vec<String> {
    let hub = std::fs::File::open(world.run_dir("00c0ffee").join("hub")).unwrap().into();
    let listing = inside(&hub, || ip("-o link"));
    listing
        .lines()
        .filter_map(|line| line.split([' ', '@', ':']).find(|word| word.starts_with('s')))
        .filter(|word| word[1..].bytes().all(|b| b.is_ascii_digit()))
        .map(str::to_owned)
        .collect()
}

/// A process in a slot, which ends with the test.
struct Tenant(Child);

impl Tenant {
    fn of(slot: &Slot) -> Self {
        Self(inside(&slot.netns, || Command::new("sleep").arg("300").spawn().unwrap()))
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_slot_is_what_a_sandbox_expects() {
    run(|world| async move {
        let hub = world.hub().await;
        let slot = hub.make_slot().await.unwrap();
        assert_eq!(slot.number, 1);
        assert_eq!(slot.outer.to_string(), "10.213.0.1");
        assert_eq!(slot.uid_base, 0x1001_0000);
        let (addresses, links, routes, neighbours) =
            inside(&slot.netns, || (ip("-o addr"), ip("-o link"), ip("route"), ip("neigh")));
        assert!(addresses.contains("inet 127.0.0.1/8") && addresses.contains("inet 10.0.0.2/30"), "{addresses}");
        assert!(!addresses.contains("inet6"), "{addresses}");
        assert!(links.contains("02:46:50:00:00:02") && links.contains("mtu 1450"), "{links}");
        assert!(routes.contains("default via 10.0.0.1 dev eth0"), "{routes}");
        assert!(neighbours.contains("10.0.0.1 dev eth0 lladdr 02:46:50:00:00:01 PERMANENT"), "{neighbours}");
        let setting = |name: &str| {
            let path = format!("/proc/sys/net/{name}");
            inside(&slot.netns, || std::fs::read_to_string(path).unwrap()).trim().replace('\t', " ")
        };
        assert_eq!(setting("ipv4/ip_unprivileged_port_start"), "0");
        assert_eq!(setting("ipv4/ping_group_range"), "0 2147483647");
        assert_eq!(setting("ipv6/conf/eth0/disable_ipv6"), "1");
        assert_eq!(setting("ipv6/conf/lo/disable_ipv6"), "1");
        inside(&slot.netns, || {
            TcpListener::bind("127.0.0.1:0").unwrap();
            assert!(UdpSocket::bind("[::1]:0").is_err());
        });
    });
}

#[test]
fn fifty_slots_made_at_once_are_distinct_and_work() {
    run(|world| async move {
        let hub = world.hub().await;
        let server = serve(&world.outside, "outside");
        let makers: Vec<_> = (0..50)
            .map(|_| {
                let hub = hub.clone();
                tokio::spawn(async move { hub.make_slot().await.unwrap() })
            })
            .collect();
        let mut slots = Vec::new();
        for maker in makers {
            slots.push(maker.await.unwrap());
        }
        let numbers: BTreeSet<_> = slots.iter().map(|slot| slot.number).collect();
        assert_eq!(numbers, (1..=50).collect());
        for slot in &slots {
            assert!(call(&slot.netns, OUTSIDE, server.port).is_some(), "slot {}", slot.number);
        }
        assert_eq!(links(&world).len(), 50);
    });
}

#[test]
fn a_closed_namespace_takes_its_link_along_and_its_number_comes_last() {
    run(|world| async move {
        let hub = world.hub().await;
        let first = hub.make_slot().await.unwrap();
        let number = first.number;
        drop(first);
        eventually("the link goes", || links(&world).is_empty()).await;
        hub.free_slot(number).await.unwrap();
        assert!(hub.used().is_empty());
        let second = hub.make_slot().await.unwrap();
        assert_ne!(second.number, number);
    });
}

#[test]
fn freeing_cuts_off_a_slot_that_still_lives_and_can_be_repeated() {
    run(|world| async move {
        let hub = world.hub().await;
        let slot = hub.make_slot().await.unwrap();
        let server = serve(&slot.netns, "slot");
        assert!(call(&world.host, slot.outer, server.port).is_some());
        hub.free_slot(slot.number).await.unwrap();
        hub.free_slot(slot.number).await.unwrap();
        assert!(links(&world).is_empty());
        assert!(connect(&world.host, slot.outer, server.port).is_none());
        hub.free_slot(0).await.unwrap();
        hub.free_slot(2000).await.unwrap();
    });
}

#[test]
fn connections_of_a_former_tenant_are_forgotten_and_others_are_not() {
    run(|world| async move {
        let hub = world.hub().await;
        let (gone, stays) = (hub.make_slot().await.unwrap(), hub.make_slot().await.unwrap());
        let outside = serve(&world.outside, "outside");
        let mut open = Vec::new();
        for slot in [&gone, &stays] {
            let server = serve(&slot.netns, "slot");
            open.push(connect(&slot.netns, OUTSIDE, outside.port).unwrap());
            open.push(connect(&world.host, slot.outer, server.port).unwrap());
        }
        let hub_namespace = std::fs::File::open(world.run_dir("00c0ffee").join("hub")).unwrap().into();
        let tracked = |address: std::net::Ipv4Addr| {
            let count = || output("conntrack", "-L").matches(&format!("src={address} ")).count();
            (count(), inside(&hub_namespace, count))
        };
        for slot in [&gone, &stays] {
            let (on_host, in_hub) = tracked(slot.outer);
            assert!(on_host >= 2 && in_hub >= 2, "host {on_host}, hub {in_hub}");
        }
        hub.free_slot(gone.number).await.unwrap();
        hub.reconcile(&[]).await.unwrap();
        assert_eq!(tracked(gone.outer), (0, 0));
        let (on_host, in_hub) = tracked(stays.outer);
        assert!(on_host >= 2 && in_hub >= 2, "host {on_host}, hub {in_hub}");
    });
}

#[test]
fn a_slot_nobody_waits_for_is_given_back() {
    run(|world| async move {
        let hub = world.hub().await;
        for _ in 0..20 {
            // Polled at least once, so that the work is on its way, and then usually dropped.
            let made = tokio::time::timeout(std::time::Duration::ZERO, hub.make_slot()).await;
            if let Ok(slot) = made {
                hub.free_slot(slot.unwrap().number).await.unwrap();
            }
        }
        eventually("all come back", || hub.used().is_empty()).await;
        eventually("their links go", || links(&world).is_empty()).await;
    });
}

#[test]
fn a_restarted_server_adopts_its_sandboxes() {
    run(|world| async move {
        let hub = world.hub().await;
        let (slot, dead) = (hub.make_slot().await.unwrap(), hub.make_slot().await.unwrap());
        let (number, other) = (slot.number, dead.number);
        let (tenant, ghost) = (Tenant::of(&slot), Tenant::of(&dead));
        let server = serve(&slot.netns, "slot");
        let mut stream = connect(&world.host, slot.outer, server.port).unwrap();
        let plan = hub.plan();
        drop((slot, dead, hub));

        let hub = world.hub().await;
        assert_eq!(hub.plan(), plan);
        assert!(crate::world::ask(&mut stream).is_some(), "the connection lives on");
        let fresh = hub.make_slot().await.unwrap();
        assert!(![number, other].contains(&fresh.number), "numbers found at the start are not handed out");

        let wrong = hub.adopt_slot(number, ghost.0.id()).await.unwrap_err();
        assert!(matches!(wrong, Error::Slot { .. }), "{wrong}");
        let wrong = hub.adopt_slot(number, std::process::id()).await.unwrap_err();
        assert!(wrong.to_string().contains("is not the network of process"), "{wrong}");
        let adopted = hub.adopt_slot(number, tenant.0.id()).await.unwrap();
        assert_eq!((adopted.number, adopted.outer), (number, plan.outer(number)));
        let twice = hub.adopt_slot(number, tenant.0.id()).await.unwrap_err();
        assert!(twice.to_string().contains("in use already"), "{twice}");

        assert_eq!(hub.reconcile(&[number]).await.unwrap(), [other]);
        assert_eq!(hub.used(), [number, fresh.number]);
        assert_eq!(links(&world).len(), 2);
        assert!(hub.reconcile(&[number]).await.unwrap().is_empty());
        let server = serve(&adopted.netns, "adopted");
        assert!(call(&world.host, adopted.outer, server.port).is_some());
    });
}

#[test]
fn a_process_elsewhere_is_not_adopted_even_if_the_number_has_no_link() {
    run(|world| async move {
        let hub: Hub = world.hub().await;
        let error = hub.adopt_slot(7, std::process::id()).await.unwrap_err();
        assert!(error.to_string().contains("has no link s7"), "{error}");
    });
}
