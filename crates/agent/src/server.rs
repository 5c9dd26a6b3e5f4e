//! Takes connections, lets in who knows the token, and hands each request to its part.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use forkpoint_protocol::{AgentFrame, ErrorKind, Hello, MAX_FRAME, MAX_HELLO, Request, VERSION, codec};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::connection::Connection;
use crate::failure::Failure;
use crate::{exec, files, identity, processes};

/// Time for hello and request, which a host sends in one write.
const HELLO_DEADLINE: Duration = Duration::from_secs(2);
/// Connections without a hello at the same time; one more ends the oldest. A host's hello comes
/// with its first packet, so that it gets through a crowd of silent connections.
const STRANGERS: usize = 256;
/// Nobody is ended before; in a burst of hosts all have their turn first.
const HEARING: Duration = Duration::from_millis(20);
/// Rest after the kernel had no descriptor or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Serves for as long as the process lives.
pub(crate) async fn serve(agent: Rc<Agent>, listener: TcpListener, refuse_local: bool) {
    let strangers = Rc::new(Strangers::default());
    loop {
        match listener.accept().await {
            Ok((stream, _)) if refuse_local && is_local(&stream) => drop(stream),
            Ok((stream, _)) => {
                strangers.make_room().await;
                strangers.admit(&agent, stream);
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Whether the peer's address is one of this sandbox, as far as the kernel routes it here.
fn is_local(stream: &TcpStream) -> bool {
    match (stream.peer_addr(), stream.local_addr()) {
        (Ok(peer), Ok(local)) => peer.ip() == local.ip() || peer.ip().is_loopback(),
        _ => true,
    }
}

/// The connections that have not shown the token yet, oldest first.
#[derive(Default)]
struct Strangers {
    next: Cell<u64>,
    tasks: RefCell<BTreeMap<u64, (Instant, AbortHandle)>>,
}

impl Strangers {
    fn admit(self: &Rc<Self>, agent: &Rc<Agent>, stream: TcpStream) {
        let number = self.next.get();
        self.next.set(number + 1);
        let place = Place { strangers: Rc::clone(self), number };
        let agent = Rc::clone(agent);
        let task = tokio::task::spawn_local(async move {
            // An error here is a peer that is gone or talks nonsense; there is nobody to tell.
            let _ = converse(agent, stream, place).await;
        });
        self.tasks.borrow_mut().insert(number, (Instant::now(), task.abort_handle()));
    }

    /// Waits until one more has room, ending the oldest when it has been heard long enough.
    async fn make_room(&self) {
        while self.tasks.borrow().len() >= STRANGERS {
            let oldest = self.tasks.borrow().first_key_value().map(|(number, (since, _))| (*number, *since));
            let Some((number, since)) = oldest else {
                return;
            };
            tokio::time::sleep_until(since + HEARING).await;
            let task = self.tasks.borrow_mut().remove(&number);
            if let Some((_, task)) = task {
                task.abort();
            }
        }
    }
}

/// A connection's place among the strangers, given up when dropped.
struct Place {
    strangers: Rc<Strangers>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.strangers.tasks.borrow_mut().remove(&self.number);
    }
}

async fn converse(agent: Rc<Agent>, stream: TcpStream, place: Place) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A host that vanished without closing must not hold its command's resources for ever.
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(&stream, 6)?;
    let mut connection = Connection::new(stream);
    let Ok(request) = tokio::time::timeout(HELLO_DEADLINE, greet(&agent, &mut connection)).await else {
        return Ok(());
    };
    let request = request?;
    // From here on the peer is the host.
    drop(place);
    let Ok(_slot) = agent.slots.try_acquire() else {
        return connection.fail(Failure::new(ErrorKind::Busy, "too many requests at the same time")).await;
    };
    match request {
        Ok(request) => dispatch(&agent, connection, request).await,
        Err(failure) => connection.fail(failure).await,
    }
}

/// Reads hello and request. Outer error: a stranger. Inner: a host whose request is not understood.
async fn greet(agent: &Agent, connection: &mut Connection) -> io::Result<Result<Request, Failure>> {
    let refused = || io::Error::from(io::ErrorKind::PermissionDenied);
    let frame = connection.frame(MAX_HELLO).await?.ok_or_else(refused)?;
    let hello: Hello = codec::decode(&frame).map_err(|_| refused())?;
    let token_matches = hello.token.matches(&agent.token.get());
    if !token_matches || hello.version != VERSION {
        return Err(refused());
    }
    let frame = connection.frame(MAX_FRAME).await?.ok_or_else(refused)?;
    Ok(codec::decode(&frame).map_err(|error| Failure::invalid(format!("request not understood: {error}"))))
}

async fn dispatch(agent: &Rc<Agent>, mut connection: Connection, request: Request) -> io::Result<()> {
    let answer = match request {
        Request::Ping => Ok(AgentFrame::Ok),
        Request::Exec(exec) => return Box::pin(exec::run(agent, connection, exec)).await,
        Request::Signal { pid, signal } => exec::signal(agent, pid, signal).map(|()| AgentFrame::Ok),
        Request::ReadFile { path, offset, len } => {
            return Box::pin(files::read(connection, path, offset, len)).await;
        }
        Request::WriteFile(request) => {
            return Box::pin(files::write(agent, connection, request)).await;
        }
        Request::List { path, depth, limit } => {
            return Box::pin(files::list(connection, path, depth, limit)).await;
        }
        Request::Glob { pattern, limit } => {
            return Box::pin(files::glob(connection, pattern, limit)).await;
        }
        Request::Watch { path, recursive } => {
            return Box::pin(files::watch(connection, path, recursive)).await;
        }
        Request::Processes => return processes::list(connection).await,
        Request::Usage => processes::usage(agent).await.map(AgentFrame::Usage),
        Request::Refresh(refresh) => identity::refresh(agent, &refresh).map(|()| AgentFrame::Ok),
        Request::Open(open) => Box::pin(exec::session::open(agent, open)).await.map(AgentFrame::Session),
        Request::Attach { id, from } => {
            return Box::pin(exec::session::attach(agent, connection, id, from)).await;
        }
        Request::Sessions => return exec::session::list(agent, connection).await,
        Request::Close { id } => exec::session::close(agent, &id).map(|()| AgentFrame::Ok),
        Request::Stat { .. }
        | Request::Mkdir { .. }
        | Request::Move { .. }
        | Request::Copy { .. }
        | Request::Remove { .. } => Box::pin(files::change(agent, &mut connection, request)).await,
    };
    match answer {
        Ok(frame) => connection.send(&frame).await,
        Err(failure) => connection.fail(failure).await,
    }
}
