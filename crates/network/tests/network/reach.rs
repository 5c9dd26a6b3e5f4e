//! What a sandbox can reach, and who can reach it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::world::{FORBIDDEN, HOST, OUTSIDE, UPLINK_MTU, ask, call, connect, greeting, inside, output, run, serve};
use forkpoint_network::{Hub, HubOptions, SLOT_GATEWAY, SLOT_PEER};

#[test]
fn two_slots_with_the_same_inner_address_answer_the_host_at_once() {
    run(|world| async move {
        let hub = world.hub().await;
        let (a, b) = (hub.make_slot().await.unwrap(), hub.make_slot().await.unwrap());
        let (in_a, in_b) = (serve(&a.netns, "a"), serve(&b.netns, "b"));
        let host = hub.plan().host_end();
        let mut to_a = connect(&world.host, a.outer, in_a.port).unwrap();
        let mut to_b = connect(&world.host, b.outer, in_b.port).unwrap();
        for _ in 0..3 {
            assert_eq!(ask(&mut to_a), Some(greeting("a", host.into())));
            assert_eq!(ask(&mut to_b), Some(greeting("b", host.into())));
        }
        for slot in [&a, &b] {
            let inner = inside(&slot.netns, || output("ip", "-4 -o addr show eth0"));
            assert!(inner.contains(&format!("{SLOT_PEER}/30")), "{inner}");
        }
    });
}

#[test]
fn the_outside_sees_the_hosts_address() {
    run(|world| async move {
        let hub = world.hub().await;
        let (a, b) = (hub.make_slot().await.unwrap(), hub.make_slot().await.unwrap());
        let server = serve(&world.outside, "outside");
        for slot in [&a, &b] {
            assert_eq!(call(&slot.netns, OUTSIDE, server.port), Some(greeting("outside", HOST.into())));
        }
    });
}

#[test]
fn a_large_transfer_arrives_whole_both_ways() {
    run(|world| async move {
        let hub = world.hub().await;
        let slot = hub.make_slot().await.unwrap();
        assert_eq!(hub.mtu(), UPLINK_MTU);
        let listener = inside(&world.outside, || TcpListener::bind("0.0.0.0:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        let bytes: Vec<u8> = (0..8_000_000_u32).map(|i| (i / 7 % 251) as u8).collect();
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).unwrap();
            stream.write_all(&heard).unwrap();
        });
        let back = inside(&slot.netns, || {
            let mut stream = TcpStream::connect((OUTSIDE, port)).unwrap();
            stream.write_all(&bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).unwrap();
            back
        });
        echo.join().unwrap();
        assert!(back == bytes);
    });
}

#[test]
fn a_sandbox_learns_that_the_way_is_narrower_than_its_link() {
    run(|world| async move {
        output("ip", &format!("route replace 203.0.113.0/24 dev up0 src {HOST} mtu lock 1200"));
        let hub = world.hub().await;
        let slot = hub.make_slot().await.unwrap();
        let listener = inside(&world.outside, || TcpListener::bind("0.0.0.0:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        let reader = std::thread::spawn(move || {
            let mut heard = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut heard).unwrap();
            heard.len()
        });
        inside(&slot.netns, || {
            let mut stream = TcpStream::connect((OUTSIDE, port)).unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
            stream.write_all(&vec![7; 3_000_000]).unwrap();
        });
        assert_eq!(reader.join().unwrap(), 3_000_000);
        let learnt = inside(&slot.netns, || output("ip", &format!("route get {OUTSIDE}")));
        assert!(learnt.contains("mtu 1200"), "{learnt}");
    });
}

/// Answers each datagram on port 53 of `address` with what it got, in reverse.
fn resolver(namespace: &std::os::fd::OwnedFd, address: Ipv4Addr) {
    let (udp, tcp) =
        inside(namespace, || (UdpSocket::bind((address, 53)).unwrap(), TcpListener::bind((address, 53)).unwrap()));
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            buffer[..length].reverse();
            let _ = udp.send_to(&buffer[..length], peer);
        }
    });
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            let _ = stream.write_all(b"tcp");
        }
    });
}

fn question(from: &std::os::fd::OwnedFd, to: Ipv4Addr) -> Option<Vec<u8>> {
    inside(from, || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((to, 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket.send(b"abc").ok()?;
        let mut buffer = [0; 16];
        let length = socket.recv(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    })
}

#[test]
fn questions_to_the_gateway_reach_a_private_resolver_and_nothing_else_of_it() {
    run(|world| async move {
        let private = FORBIDDEN[1];
        resolver(&world.outside, private);
        let options = HubOptions { resolvers: Some(vec![private]), ..world.options("00c0ffee") };
        let hub = Hub::open(options).await.unwrap();
        assert_eq!(hub.resolver(), Some(private));
        let slot = hub.make_slot().await.unwrap();
        assert_eq!(question(&slot.netns, SLOT_GATEWAY).as_deref(), Some(&b"cba"[..]));
        let mut answer = String::new();
        let mut stream = connect(&slot.netns, SLOT_GATEWAY, 53).unwrap();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "tcp");
        // Asked directly, it does not answer; nor does another port through the gateway.
        assert_eq!(question(&slot.netns, private), None);
        let server = serve(&world.outside, "outside");
        assert!(connect(&slot.netns, SLOT_GATEWAY, server.port).is_none());
    });
}

#[test]
fn a_resolver_of_the_host_itself_answers_and_opens_no_other_port() {
    run(|world| async move {
        resolver(&world.host, HOST);
        let server = serve(&world.host, "host");
        let hub = Hub::open(HubOptions { resolvers: Some(vec![HOST]), ..world.options("00c0ffee") }).await.unwrap();
        let slot = hub.make_slot().await.unwrap();
        assert_eq!(question(&slot.netns, SLOT_GATEWAY).as_deref(), Some(&b"cba"[..]));
        for address in [SLOT_GATEWAY, HOST] {
            assert!(connect(&slot.netns, address, server.port).is_none(), "{address}");
        }
    });
}

#[test]
fn a_new_resolver_is_used_after_a_refresh() {
    run(|world| async move {
        // The host's own configuration, in this test's view of /etc.
        let file = world.run_dir("resolv.conf");
        std::fs::write(&file, "nameserver 127.0.0.53\n").unwrap();
        rustix::mount::mount_bind(&file, "/etc/resolv.conf").unwrap();
        let hub = Hub::open(HubOptions { resolvers: None, ..world.options("00c0ffee") }).await.unwrap();
        assert_eq!(hub.resolver(), None);
        let slot = hub.make_slot().await.unwrap();
        resolver(&world.outside, OUTSIDE);
        assert_eq!(question(&slot.netns, SLOT_GATEWAY), None);
        std::fs::write(&file, format!("nameserver {OUTSIDE}\n")).unwrap();
        assert_eq!(hub.refresh_resolvers().await.unwrap(), Some(OUTSIDE));
        assert_eq!(question(&slot.netns, SLOT_GATEWAY).as_deref(), Some(&b"cba"[..]));
    });
}
