//! A host of its own for one test, with a resolver and servers "outside".
#![allow(unsafe_code)]

use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use forkpoint_network::{Hub, HubOptions};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// The host's address on its uplink.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// A second, public address of the host, on no uplink.
pub(crate) const HOST_EXTRA: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// A public server outside.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// Addresses that exist outside, and that the host can reach, but no sandbox may.
pub(crate) const FORBIDDEN: [Ipv4Addr; 7] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(10, 9, 9, 9),
    Ipv4Addr::new(10, 213, 200, 1),
    Ipv4Addr::new(100, 64, 1, 1),
    Ipv4Addr::new(172, 31, 255, 1),
    Ipv4Addr::new(192, 168, 7, 7),
    Ipv4Addr::new(240, 0, 0, 1),
];
pub(crate) const UPLINK: &str = "up0";
pub(crate) const UPLINK_MTU: u32 = 1450;
/// Long enough for a connection on this machine, short enough to wait for packets that are dropped.
const PATIENCE: Duration = Duration::from_millis(400);

/// The host of one test.
pub(crate) struct World {
    directory: tempfile::TempDir,
    pub(crate) host: OwnedFd,
    pub(crate) outside: OwnedFd,
}

/// Runs `test` on a host of its own.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce(World) -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let world = World::new();
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(test(world));
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl World {
    fn new() -> Self {
        // SAFETY: descriptors stay shared; only namespaces of this thread change.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWNET) }.expect("tests need root");
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
        mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).unwrap();
        let host = own();
        let outside = in_thread(|| {
            // SAFETY: as above.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            own()
        });
        let world = Self { directory: tempfile::tempdir_in("/run").unwrap(), host, outside };
        ip("link set lo up");
        ip(&format!("link add {UPLINK} mtu {UPLINK_MTU} type veth peer name wan mtu {UPLINK_MTU}"));
        ip(&format!("addr add {HOST}/24 dev {UPLINK}"));
        ip(&format!("addr add {HOST_EXTRA}/32 dev lo"));
        world.move_out("wan");
        ip(&format!("link set {UPLINK} up"));
        inside(&world.outside, || {
            ip("link set lo up");
            ip(&format!("addr add {OUTSIDE}/24 dev wan"));
            for address in FORBIDDEN {
                ip(&format!("addr add {address}/32 dev lo"));
            }
            ip("link set wan up");
        });
        ip(&format!("route add default via {OUTSIDE}"));
        // Until the kernel knows that both ends are up, it drops what is sent.
        for _ in 0..1000 {
            let (near, far) = (ip("-o link show up0"), inside(&world.outside, || ip("-o link show wan")));
            if near.contains("state UP") && far.contains("state UP") {
                return world;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the uplink of this test did not come up")
    }

    /// Moves a link of the host outside.
    pub(crate) fn move_out(&self, link: &str) {
        self.move_to(link, &self.outside);
    }

    /// Moves a link of the host into another namespace.
    pub(crate) fn move_to(&self, link: &str, namespace: &OwnedFd) {
        // `ip` knows namespaces by process: one that sits in it.
        let mut sitter = inside(namespace, || Command::new("sleep").arg("60").spawn().unwrap());
        ip(&format!("link set {link} netns {}", sitter.id()));
        sitter.kill().unwrap();
        sitter.wait().unwrap();
    }

    pub(crate) fn run_dir(&self, instance: &str) -> PathBuf {
        self.directory.path().join(instance)
    }

    /// The options of an instance; questions go to the server outside.
    pub(crate) fn options(&self, instance: &str) -> HubOptions {
        HubOptions { resolvers: Some(vec![OUTSIDE]), ..HubOptions::new(instance, self.run_dir(instance)) }
    }

    pub(crate) async fn hub(&self) -> Hub {
        Hub::open(self.options("00c0ffee")).await.unwrap()
    }

    /// What the host shows: links, routes, rules, forwarding, namespaces bound to a path.
    pub(crate) fn picture(&self) -> String {
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let mounts: Vec<_> = mounts.lines().filter(|line| line.contains(" - nsfs ")).collect();
        [
            output("ip", "-o link").replace("state", ""),
            output("ip", "route show table all"),
            output("nft", "list ruleset"),
            forwarding(UPLINK),
            mounts.join("\n"),
        ]
        .join("\n")
    }
}

/// The text of a link's forwarding setting, in the calling thread's namespace.
pub(crate) fn forwarding(link: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{link}/forwarding")).unwrap().trim().to_owned()
}

fn own() -> OwnedFd {
    File::open("/proc/thread-self/ns/net").unwrap().into()
}

pub(crate) fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

/// A new, empty network namespace.
pub(crate) fn namespace() -> OwnedFd {
    in_thread(|| {
        // SAFETY: descriptors stay shared; only the network namespace of this thread changes.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        own()
    })
}

/// Runs `work` in a network namespace.
pub(crate) fn inside<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    let namespace: BorrowedFd<'_> = namespace.as_fd();
    in_thread(move || {
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network)).unwrap();
        work()
    })
}

/// Runs `ip` in the calling thread's namespace.
pub(crate) fn ip(arguments: &str) -> String {
    output("ip", arguments)
}

/// Runs a program and returns what it says.
pub(crate) fn output(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A server on all addresses of a namespace that tells each caller the address it sees.
pub(crate) struct Server {
    pub(crate) port: u16,
}

/// What a server answers.
pub(crate) fn greeting(name: &str, peer: IpAddr) -> String {
    format!("{name} sees {peer}")
}

/// Starts a server in a namespace. It ends with the process.
pub(crate) fn serve(namespace: &OwnedFd, name: &'static str) -> Server {
    let listener = inside(namespace, || TcpListener::bind("0.0.0.0:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut byte) = (stream.unwrap(), [0]);
            let peer = stream.peer_addr().unwrap().ip();
            std::thread::spawn(move || {
                // One answer for each byte, so that a connection can be held open and tried again.
                while stream.read(&mut byte).unwrap_or(0) == 1 {
                    let _ = stream.write_all(format!("{}\n", greeting(name, peer)).as_bytes());
                }
            });
        }
    });
    Server { port }
}

/// Connects from a namespace. `None` if that does not work.
pub(crate) fn connect(from: &OwnedFd, to: Ipv4Addr, port: u16) -> Option<TcpStream> {
    inside(from, || TcpStream::connect_timeout(&SocketAddr::from((to, port)), PATIENCE).ok())
}

/// Asks a server once. `None` if it does not answer.
pub(crate) fn ask(stream: &mut TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"?").ok()?;
    let (mut answer, mut byte) = (Vec::new(), [0]);
    loop {
        if stream.read(&mut byte).ok()? != 1 {
            return None;
        }
        if byte[0] == b'\n' {
            return Some(String::from_utf8(answer).unwrap());
        }
        answer.push(byte[0]);
    }
}

/// Connects and asks once.
pub(crate) fn call(from: &OwnedFd, to: Ipv4Addr, port: u16) -> Option<String> {
    ask(&mut connect(from, to, port)?)
}

/// Waits until `condition` holds, for at most ten seconds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
