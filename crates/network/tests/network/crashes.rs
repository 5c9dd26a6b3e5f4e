//! A hub is opened over whatever a killed predecessor left.

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::world::{OUTSIDE, World, call, inside, ip, namespace, output, run, serve};
use forkpoint_network::{Error, Hub, owned, purge};

const INSTANCE: &str = "00c0ffee";

async fn works(world: &World, hub: &Hub) {
    let slot = hub.make_slot().await.unwrap();
    let (out, within) = (serve(&world.outside, "outside"), serve(&slot.netns, "slot"));
    assert!(call(&slot.netns, OUTSIDE, out.port).is_some(), "the outside is reached");
    assert!(call(&world.host, slot.outer, within.port).is_some(), "the slot is reached");
    assert!(call(&slot.netns, crate::world::HOST, within.port).is_none());
    hub.free_slot(slot.number).await.unwrap();
}

fn hub_namespace(world: &World) -> OwnedFd {
    std::fs::File::open(world.run_dir(INSTANCE).join("hub")).unwrap().into()
}

fn bind(namespace: &OwnedFd, path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, "").unwrap();
    inside(namespace, || rustix::mount::mount_bind("/proc/thread-self/ns/net", path).unwrap());
}

#[test]
fn opened_twice_it_is_the_same_hub() {
    run(|world| async move {
        let first = world.hub().await;
        let before = ip("-o link");
        let second = world.hub().await;
        assert_eq!(first.plan(), second.plan());
        assert_eq!(before, ip("-o link"));
        works(&world, &second).await;
    });
}

#[test]
fn killed_before_the_namespace_was_bound() {
    run(|world| async move {
        std::fs::create_dir_all(world.run_dir(INSTANCE)).unwrap();
        std::fs::write(world.run_dir(INSTANCE).join("hub"), "").unwrap();
        works(&world, &world.hub().await).await;
    });
}

#[test]
fn killed_before_the_link_was_made() {
    run(|world| async move {
        bind(&namespace(), &world.run_dir(INSTANCE).join("hub"));
        works(&world, &world.hub().await).await;
    });
}

#[test]
fn killed_before_the_link_was_moved_to_the_host() {
    run(|world| async move {
        let hub = namespace();
        bind(&hub, &world.run_dir(INSTANCE).join("hub"));
        inside(&hub, || ip("link add hub type veth peer name fp0"));
        works(&world, &world.hub().await).await;
    });
}

#[test]
fn killed_after_the_link_was_moved_and_before_anything_else() {
    run(|world| async move {
        drop(world.hub().await);
        // Everything after the move, undone.
        output("nft", "delete table inet forkpoint_00c0ffee");
        std::fs::remove_file(world.run_dir(INSTANCE).join("hub.json")).unwrap();
        ip("link set fp0 down");
        ip("addr flush dev fp0");
        inside(&hub_namespace(&world), || {
            output("nft", "flush ruleset");
            ip("addr flush dev hub");
            ip("link set hub down");
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        });
        let hub = world.hub().await;
        assert_eq!(hub.plan().index(), 0);
        works(&world, &hub).await;
    });
}

#[test]
fn rules_that_someone_flushed_are_loaded_again() {
    run(|world| async move {
        let hub = world.hub().await;
        output("nft", "flush ruleset");
        inside(&hub_namespace(&world), || output("nft", "flush ruleset"));
        hub.refresh_resolvers().await.unwrap();
        works(&world, &hub).await;
    });
}

#[test]
fn a_hub_that_is_gone_is_made_anew_at_its_old_index() {
    run(|world| async move {
        let squatter = Hub::open(world.options("00000001")).await.unwrap();
        let hub = world.hub().await;
        assert_eq!(hub.plan().index(), 1);
        purge("00000001", &world.run_dir("00000001")).await.unwrap();
        drop((hub, squatter));
        rustix::mount::unmount(world.run_dir(INSTANCE).join("hub"), rustix::mount::UnmountFlags::DETACH).unwrap();
        let hub = world.hub().await;
        assert_eq!(hub.plan().index(), 1, "the remembered index is preferred");
        works(&world, &hub).await;
    });
}

#[test]
fn a_link_without_its_hub_is_replaced() {
    run(|world| async move {
        // A link with our alias whose other end is in no hub.
        ip("link add fp0 type veth peer name stray");
        ip("link set fp0 alias forkpoint:00c0ffee");
        let hub = world.hub().await;
        works(&world, &hub).await;
        assert!(!ip("-o link").contains("stray"));
    });
}

#[test]
fn with_its_link_deleted_a_hub_with_sandboxes_keeps_its_addresses() {
    run(|world| async move {
        let hub = world.hub().await;
        let slot = hub.make_slot().await.unwrap();
        let server = serve(&slot.netns, "slot");
        drop(hub);
        ip("link del fp0");
        let hub = world.hub().await;
        assert!(call(&world.host, slot.outer, server.port).is_some());
        drop(hub);
        // Now the index is taken by someone else: sandboxes cannot be moved to another one.
        ip("link del fp0");
        ip("link add fp0 type veth peer name spare");
        let error = Hub::open(world.options(INSTANCE)).await.unwrap_err();
        assert!(matches!(error, Error::SubnetLost { slots: 1, .. }), "{error}");
        assert!(error.to_string().contains("link fp0 exists"), "{error}");
    });
}

#[test]
fn subnets_and_names_of_others_are_left_alone() {
    run(|world| async move {
        ip("link add fp0 type veth peer name spare");
        ip("addr add 10.213.6.1/24 dev lo");
        ip(&format!("route add 10.213.8.0/21 via {OUTSIDE}"));
        let hub = world.hub().await;
        assert_eq!(hub.plan().index(), 4);
        works(&world, &hub).await;
        ip(&format!("route add 10.213.0.0/16 via {OUTSIDE}"));
        let error = Hub::open(world.options("00000002")).await.unwrap_err();
        assert!(matches!(error, Error::NoSubnet { .. }), "{error}");
        assert!(error.to_string().contains("overlaps 10.213."), "{error}");
        // What the failed one began can be purged.
        purge("00000002", &world.run_dir("00000002")).await.unwrap();
        assert!(!world.run_dir("00000002").join("hub").exists());
    });
}

#[test]
fn the_hosts_own_namespace_is_never_taken_for_a_hub() {
    run(|world| async move {
        bind(&world.host, &world.run_dir(INSTANCE).join("hub"));
        let before = output("nft", "list ruleset");
        let error = Hub::open(world.options(INSTANCE)).await.unwrap_err();
        assert!(matches!(error, Error::Setting { field: "run_dir", .. }), "{error}");
        assert_eq!(before, output("nft", "list ruleset"));
    });
}

#[test]
fn purge_leaves_nothing_and_can_be_repeated() {
    run(|world| async move {
        let before = world.picture();
        let hub = world.hub().await;
        let slots = [hub.make_slot().await.unwrap(), hub.make_slot().await.unwrap()];
        let run_dir = world.run_dir(INSTANCE);
        let seen = owned(INSTANCE, &run_dir).await.unwrap();
        assert_eq!((seen.links, seen.namespaces, seen.mounts), (3, 3, 1));
        assert!(seen.rules > 10, "{seen:?}");
        assert_ne!(before, world.picture());

        // With the server still running, and again.
        assert_eq!(purge(INSTANCE, &run_dir).await.unwrap(), seen);
        assert_eq!(before, world.picture());
        assert_eq!(purge(INSTANCE, &run_dir).await.unwrap(), Default::default());
        assert_eq!(owned(INSTANCE, &run_dir).await.unwrap(), Default::default());
        assert_eq!(std::fs::read_dir(&run_dir).unwrap().count(), 0);
        drop((hub, slots));

        let hub = world.hub().await;
        works(&world, &hub).await;
        drop(hub);
        purge(INSTANCE, &run_dir).await.unwrap();
        assert_eq!(before, world.picture());
    });
}

#[test]
fn a_purge_that_was_killed_is_finished_by_the_next() {
    run(|world| async move {
        let before = world.picture();
        drop(world.hub().await);
        ip("link del fp0");
        assert!(owned(INSTANCE, &world.run_dir(INSTANCE)).await.unwrap().rules > 0);
        purge(INSTANCE, &world.run_dir(INSTANCE)).await.unwrap();
        assert_eq!(before, world.picture());
    });
}

#[test]
fn an_instance_that_is_no_name_is_refused() {
    run(|world| async move {
        for bad in ["", "00c0ffe", "00C0FFEE", "00c0ffee; }", "../../..", "00c0ffee0"] {
            let error = Hub::open(world.options(bad)).await.unwrap_err();
            assert!(matches!(error, Error::Setting { field: "instance", .. }), "{error}");
            assert!(purge(bad, Path::new("/")).await.is_err());
        }
    });
}
