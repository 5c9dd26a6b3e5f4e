//! What a sandbox cannot reach.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use crate::world::{
    FORBIDDEN, HOST, HOST_EXTRA, OUTSIDE, call, connect, greeting, in_thread, inside, ip, namespace, output, run, serve,
};
use forkpoint_network::{Hub, HubOptions};

#[test]
fn a_listener_on_all_addresses_of_the_host_is_not_reachable() {
    run(|world| async move {
        let hub = world.hub().await;
        let slot = hub.make_slot().await.unwrap();
        let server = serve(&world.host, "host");
        assert_eq!(
            call(&world.outside, HOST, server.port),
            Some(greeting("host", OUTSIDE.into())),
            "the server itself works"
        );
        let plan = hub.plan();
        let ways = [HOST, HOST_EXTRA, plan.host_end(), plan.hub_end(), Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 0, 0, 1)];
        for address in ways {
            assert!(connect(&slot.netns, address, server.port).is_none(), "{address} was reached");
        }
        let outside = serve(&world.outside, "outside");
        assert!(call(&slot.netns, OUTSIDE, outside.port).is_some(), "the sandbox's network works");
    });
}

#[test]
fn datagrams_to_the_host_are_not_delivered() {
    run(|world| async move {
        let hub = world.hub().await;
        let slot = hub.make_slot().await.unwrap();
        let listener = UdpSocket::bind("0.0.0.0:0").unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let port = listener.local_addr().unwrap().port();
        for address in [HOST, HOST_EXTRA, hub.plan().host_end()] {
            inside(&slot.netns, || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                let _ = socket.send_to(b"sandbox", (address, port));
            });
        }
        inside(&world.outside, || {
            UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"outside", (HOST, port)).unwrap();
        });
        // Packets of one machine do not overtake each other: those of the sandbox would be first.
        let mut buffer = [0; 16];
        let length = listener.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"outside");
    });
}

#[test]
fn private_shared_and_link_local_addresses_are_not_reachable() {
    run(|world| async move {
        let hub = world.hub().await;
        let slot = hub.make_slot().await.unwrap();
        let server = serve(&world.outside, "outside");
        for address in FORBIDDEN {
            // 240/4 is not routed by every kernel; the others are controls for the test itself.
            if !address.octets()[0].eq(&240) {
                assert!(call(&world.host, address, server.port).is_some(), "{address} exists");
            }
            assert!(connect(&slot.netns, address, server.port).is_none(), "{address} was reached");
        }
        assert!(call(&slot.netns, OUTSIDE, server.port).is_some());
    });
}

#[test]
fn a_refused_destination_is_answered_at_once() {
    run(|world| async move {
        let hub = world.hub().await;
        let slot = hub.make_slot().await.unwrap();
        let error = inside(&slot.netns, || {
            let metadata = (Ipv4Addr::new(169, 254, 169, 254), 80).into();
            std::net::TcpStream::connect_timeout(&metadata, Duration::from_secs(5)).unwrap_err()
        });
        assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable, "{error}");
    });
}

#[test]
fn neighbours_do_not_reach_each_other() {
    run(|world| async move {
        let hub = world.hub().await;
        let (a, b) = (hub.make_slot().await.unwrap(), hub.make_slot().await.unwrap());
        let server = serve(&b.netns, "b");
        assert!(call(&world.host, b.outer, server.port).is_some(), "the host reaches it");
        assert!(connect(&a.netns, b.outer, server.port).is_none());
        assert!(connect(&a.netns, a.outer, server.port).is_none());
    });
}

#[test]
fn sandboxes_of_two_data_directories_do_not_reach_each_other() {
    run(|world| async move {
        let first = world.hub().await;
        let second = Hub::open(world.options("00000002")).await.unwrap();
        assert_ne!(first.plan().index(), second.plan().index());
        let (a, b) = (first.make_slot().await.unwrap(), second.make_slot().await.unwrap());
        let server = serve(&b.netns, "b");
        assert!(call(&world.host, b.outer, server.port).is_some(), "the host reaches it");
        assert!(connect(&a.netns, b.outer, server.port).is_none());
        assert!(connect(&a.netns, second.plan().host_end(), server.port).is_none());
        let outside = serve(&world.outside, "outside");
        for slot in [&a, &b] {
            assert!(call(&slot.netns, OUTSIDE, outside.port).is_some());
        }
    });
}

#[test]
fn the_outside_does_not_reach_a_sandbox_through_the_host() {
    run(|world| async move {
        let hub = world.hub().await;
        let slot = hub.make_slot().await.unwrap();
        let server = serve(&slot.netns, "slot");
        inside(&world.outside, || ip(&format!("route add {} via {HOST}", hub.plan().subnet())));
        assert!(call(&world.host, slot.outer, server.port).is_some());
        assert!(connect(&world.outside, slot.outer, server.port).is_none());
    });
}

#[test]
fn opening_a_hub_makes_the_host_a_router_for_nobody_else() {
    run(|world| async move {
        let lan = namespace();
        ip("link add lan0 type veth peer name inner");
        world.move_to("inner", &lan);
        ip("addr add 198.51.100.129/25 dev lan0");
        ip("link set lan0 up");
        inside(&lan, || {
            ip("addr add 198.51.100.130/25 dev inner");
            ip("link set inner up");
            ip("route add default via 198.51.100.129");
        });
        let target = Ipv4Addr::new(198, 51, 100, 130);
        let server = serve(&lan, "lan");
        inside(&world.outside, || ip(&format!("route add 198.51.100.128/25 via {HOST}")));
        // Forwarding back is on, so only the way in is missing.
        std::fs::write("/proc/sys/net/ipv4/conf/lan0/forwarding", "1").unwrap();
        assert!(connect(&world.outside, target, server.port).is_none());
        let hub = world.hub().await;
        assert_eq!(crate::world::forwarding("up0"), "1");
        assert!(connect(&world.outside, target, server.port).is_none());
        // The test can fail: without the hub's rules it is a router.
        output("nft", "flush chain inet forkpoint_00c0ffee forward");
        assert!(call(&world.outside, target, server.port).is_some());
        drop(hub);
    });
}

#[test]
fn a_false_source_address_becomes_the_slots_own() {
    run(|world| async move {
        let hub = world.hub().await;
        let (a, b) = (hub.make_slot().await.unwrap(), hub.make_slot().await.unwrap());
        let listener = inside(&world.outside, || UdpSocket::bind("0.0.0.0:0").unwrap());
        listener.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = packets_from(b.outer, || {
            inside(&a.netns, || {
                ip(&format!("addr add {}/32 dev eth0", b.outer));
                UdpSocket::bind((b.outer, 0)).unwrap().send_to(b"x", (OUTSIDE, port)).unwrap();
            });
            listener.recv_from(&mut [0; 4]).unwrap().1.ip()
        });
        assert_eq!(heard, (std::net::IpAddr::from(HOST), 0));
    });
}

#[test]
fn the_hosts_wall_stands_without_the_hubs() {
    run(|world| async move {
        let hub = world.hub().await;
        let (a, b) = (hub.make_slot().await.unwrap(), hub.make_slot().await.unwrap());
        let second = Hub::open(world.options("00000002")).await.unwrap();
        let c = second.make_slot().await.unwrap();
        for instance in ["00c0ffee", "00000002"] {
            let namespace = std::fs::File::open(world.run_dir(instance).join("hub")).unwrap().into();
            inside(&namespace, || {
                output("nft", "flush chain inet forkpoint forward");
                output("nft", "chain inet forkpoint forward { policy accept ; }")
            });
        }
        let (inner, outer) = (serve(&b.netns, "b"), serve(&world.outside, "outside"));
        let (neighbour, host) = (serve(&c.netns, "c"), serve(&world.host, "host"));
        assert!(call(&a.netns, b.outer, inner.port).is_some(), "the hubs' walls are down");
        for address in FORBIDDEN {
            assert!(connect(&a.netns, address, outer.port).is_none(), "{address} was reached");
        }
        assert!(connect(&a.netns, c.outer, neighbour.port).is_none());
        assert!(connect(&a.netns, HOST, host.port).is_none());
        inside(&world.outside, || ip(&format!("route add {} via {HOST}", hub.plan().subnet())));
        assert!(connect(&world.outside, b.outer, inner.port).is_none());
        assert!(call(&a.netns, OUTSIDE, outer.port).is_some());
    });
}

#[test]
fn the_hubs_wall_stands_without_the_hosts() {
    run(|world| async move {
        let hub = world.hub().await;
        let (a, b) = (hub.make_slot().await.unwrap(), hub.make_slot().await.unwrap());
        for chain in ["input", "forward"] {
            output("nft", &format!("flush chain inet forkpoint_00c0ffee {chain}"));
        }
        let (inner, outer) = (serve(&b.netns, "b"), serve(&world.outside, "outside"));
        let host = serve(&world.host, "host");
        assert!(call(&a.netns, HOST, host.port).is_some(), "the host's wall is down");
        for address in FORBIDDEN {
            assert!(connect(&a.netns, address, outer.port).is_none(), "{address} was reached");
        }
        assert!(connect(&a.netns, b.outer, inner.port).is_none());
        inside(&world.outside, || ip(&format!("route add {} via {HOST}", hub.plan().subnet())));
        assert!(connect(&world.outside, b.outer, inner.port).is_none());
    });
}

/// Counts packets that leave the hub with `source` while `work` runs.
fn packets_from<T: Send>(source: Ipv4Addr, work: impl FnOnce() -> T + Send) -> (T, usize) {
    output("nft", "add table ip count");
    output("nft", "add chain ip count c { type filter hook prerouting priority -350 ; }");
    output("nft", &format!("add rule ip count c ip saddr {source} counter"));
    let result = in_thread(work);
    let listing = output("nft", "list chain ip count c");
    let packets = listing.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    (result, packets.parse().unwrap())
}

#[test]
fn one_sandbox_cannot_fill_the_table_of_connections() {
    run(|world| async move {
        let options = HubOptions { connections_per_slot: 5, ..world.options("00c0ffee") };
        let hub = Hub::open(options).await.unwrap();
        let (a, b) = (hub.make_slot().await.unwrap(), hub.make_slot().await.unwrap());
        let server = serve(&world.outside, "outside");
        let open: Vec<_> = (0..5).map(|_| connect(&a.netns, OUTSIDE, server.port)).collect();
        assert!(open.iter().all(Option::is_some));
        assert!(connect(&a.netns, OUTSIDE, server.port).is_none(), "the sixth is refused");
        assert!(call(&b.netns, OUTSIDE, server.port).is_some(), "the neighbour does not notice");
    });
}
