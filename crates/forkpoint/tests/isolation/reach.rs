//! What a sandbox may not reach over the network, while all of it is really there.

use crate::kit::{USERS, Wrong, put, said};
use crate::support::Server;
use serde_json::Value;
use std::{
    io::Read as _,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::linux::net::SocketAddrExt as _,
    os::unix::net::{SocketAddr as UnixAddress, UnixListener},
    process::Command,
    time::Duration,
};

/// All IPv4 addresses of this host; those of its link to sandboxes are among them.
fn host_addresses() -> Vec<Ipv4Addr> {
    let output = Command::new("ip").args(["-4", "-o", "address", "show"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split_ascii_whitespace().nth(3)?.split('/').next()?.parse().ok()).collect()
}

async fn outer_address(server: &Server, sandbox: &str) -> Ipv4Addr {
    server.get(&format!("/sandbox/{sandbox}")).await.ok()["pod_ip"].as_str().unwrap().parse().unwrap()
}

/// Tries each `protocol address port`, all at once, and tells what became of it.
const TRY: &str = include_str!("reach.py");

struct Listeners {
    tcp: TcpListener,
    tcp6: Option<TcpListener>,
    udp: UdpSocket,
    port: u16,
}

impl Listeners {
    /// On every address of the host, with one port for all.
    fn new() -> Self {
        loop {
            let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
            let port = tcp.local_addr().unwrap().port();
            let Ok(udp) = UdpSocket::bind(("0.0.0.0", port)) else { continue };
            let tcp6 = TcpListener::bind(("::1", port)).ok();
            tcp.set_nonblocking(true).unwrap();
            udp.set_nonblocking(true).unwrap();
            if let Some(tcp6) = &tcp6 {
                tcp6.set_nonblocking(true).unwrap();
            }
            return Self { tcp, tcp6, udp, port };
        }
    }

    /// Who has come, over all ways.
    fn heard(&self) -> Vec<String> {
        let mut heard = Vec::new();
        while let Ok((_, from)) = self.tcp.accept() {
            heard.push(format!("connection from {from}"));
        }
        while let Some(Ok((_, from))) = self.tcp6.as_ref().map(TcpListener::accept) {
            heard.push(format!("connection from {from}"));
        }
        while let Ok((_, from)) = self.udp.recv_from(&mut [0; 64]) {
            heard.push(format!("datagram from {from}"));
        }
        heard
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn host_neighbours_and_private_networks_are_out_of_reach() {
    let server = Server::start().await;
    let (sandbox, neighbour) = (server.sandbox().await, server.sandbox().await);
    let (own, other) = (outer_address(&server, &sandbox).await, outer_address(&server, &neighbour).await);
    put(&server, &neighbour, "/workspace/index.html", "of the neighbour").await;
    server.sh(&neighbour, "python3 -m http.server 8080 --bind 0.0.0.0 >/dev/null 2>&1 & until curl -sf localhost:8080 >/dev/null; do sleep 0.05; done").await;
    let host = Listeners::new();
    let port = host.port;

    // All of it is really there.
    for address in
        [SocketAddr::from(([127, 0, 0, 1], port)), (other, 8080).into(), (other, 4650).into(), (own, 4650).into()]
    {
        TcpStream::connect_timeout(&address, Duration::from_secs(5))
            .unwrap_or_else(|error| panic!("{address}: {error}"));
    }
    UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", ("127.0.0.1", port)).unwrap();
    assert_eq!(host.heard().len(), 2);

    let mut targets = Vec::new();
    let mut add = |address: String, ports: &[u16]| {
        for port in ports {
            targets.extend(["tcp", "udp"].map(|protocol| format!("{protocol} {address} {port}")));
        }
    };
    let api: u16 = server.url.rsplit_once(':').unwrap().1.parse().unwrap();
    for address in host_addresses() {
        add(address.to_string(), &[port, api, 22]);
        // The hub's end of the link to the host is the other address of its pair.
        add(Ipv4Addr::from(u32::from(address) ^ 1).to_string(), &[port, 4650]);
        add(format!("::ffff:{address}"), &[port]);
    }
    for address in [own, other] {
        add(address.to_string(), &[4650, 8080]);
    }
    for address in
        ["10.0.0.1", "10.0.0.3", "127.0.0.1", "0.0.0.0", "::1", "fe80::1%eth0", "2001:db8::1", "ff02::1%eth0"]
    {
        add(address.to_owned(), &[port, api]);
    }
    for address in [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "100.64.0.1",
        "10.1.2.3",
        "10.255.255.254",
        "172.16.0.1",
        "172.31.255.254",
        "192.168.0.1",
        "192.168.255.254",
        "0.0.0.1",
        "127.1.2.3",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "10.0.0.255",
    ] {
        add(address.to_owned(), &[80, port]);
    }
    let name = format!("forkpoint-test-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&UnixAddress::from_abstract_name(&name).unwrap()).unwrap();
    targets.extend([
        format!("unix @{name} 0"),
        "unix /run/docker.sock 0".into(),
        "unix /run/dbus/system_bus_socket 0".into(),
    ]);
    // A way around by naming the last stop in an option.
    targets.extend(host_addresses().iter().map(|address| format!("routed {address} {port}")));

    let mut wrong = Wrong::default();
    // Whoever is refused a forbidden range learns it at once. (In a crowd the kernel answers fewer.)
    let alone = said(&server, &sandbox, "sandbox", TRY, &["tcp 169.254.169.254 80"]).await;
    let alone: Value = serde_json::from_str(&alone).unwrap();
    wrong.unless(alone["seconds"].as_f64().unwrap() < 2.0, || format!("slow: {alone}"));
    let all = targets.join("\n");
    for user in USERS {
        let told = said(&server, &sandbox, user, TRY, &[&all]).await;
        let answers: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        wrong.unless(answers.len() == targets.len(), || format!("{} of {} answers", answers.len(), targets.len()));
        for answer in &answers {
            wrong.unless(answer["reached"] == false, || format!("{user}: {answer}"));
        }
    }
    let heard = host.heard();
    wrong.unless(heard.is_empty(), || format!("the host heard {heard:?}"));
    assert_eq!(server.sh(&sandbox, "hostname -I").await.trim(), "10.0.0.2");
}

/// What the agent says to someone who does not know its secret, and that it closes.
fn ask_agent(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    // A reset is a close too; what it must not be is silence for ever.
    let closed = read.as_ref().err().is_none_or(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
    assert!(closed, "{address}: {read:?}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_talks_to_nobody_inside_and_to_nobody_without_its_secret() {
    let server = Server::start().await;
    let sandbox = server.sandbox().await;
    let address = SocketAddr::from((outer_address(&server, &sandbox).await, 4650));
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], &[0, 0, 0, 0], &[33, 0, 0, 0, 1]] {
        assert_eq!(ask_agent(address, bytes), b"", "{bytes:?}");
    }
    let code = r#"
import socket
for address in ["10.0.0.2", "127.0.0.1"]:
    try:
        with socket.create_connection((address, 4650), 3) as agent:
            agent.settimeout(5)
            agent.send(b"\x22\0\0\0" + b"\1" + b"\0" * 33)
            print(address, agent.recv(100))
    except OSError as error:
        print(address, type(error).__name__)
"#;
    for user in USERS {
        let told = said(&server, &sandbox, user, code, &[]).await;
        let answers: Vec<&str> = told.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert!(
            answers
                .iter()
                .all(|answer| ["b''", "ConnectionResetError", "ConnectionRefusedError", "BrokenPipeError"]
                    .contains(answer)),
            "{user}: {told}"
        );
    }
    assert_eq!(server.sh(&sandbox, "echo here").await, "here\n");
}
