//! Connections: HTTP/1.1 over TCP with bounds on what a peer can hold, ended without cutting requests short.

mod stall;

use crate::http::Hold;
use axum::{Extension, Router, body::Body, extract::connect_info::ConnectInfo};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use stall::Stalling;
use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

/// What can be set of connections.
#[derive(Debug, Clone)]
pub struct ConnectionOptions {
    /// The most connections at once; further ones wait in the listener's queue.
    pub max_connections: usize,
    /// How long a connection may take for a request's headers, and may lie idle between requests.
    pub header_timeout: Duration,
    /// How long a peer may take nothing of what is sent to it.
    pub write_timeout: Duration,
    /// The most bytes that a request's headers may have together.
    pub max_header_bytes: usize,
    /// How long requests in progress may take to end after a shutdown was asked for.
    pub shutdown_grace: Duration,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            header_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(120),
            max_header_bytes: 64 * 1024,
            shutdown_grace: Duration::from_secs(20),
        }
    }
}

/// The most header fields a request may have.
const MAX_HEADERS: usize = 100;

/// Serves until `shutdown` is done and the connections have ended or used up their grace.
///
/// Fails only when the listener itself does.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: ConnectionOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let mut shutdown = pin!(shutdown);
    let places = Arc::new(Semaphore::new(options.max_connections.max(1)));
    let connections = TaskTracker::new();
    let (finish, cut) = (CancellationToken::new(), CancellationToken::new());
    let outcome = loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break Ok(()),
            accepted = accept(&listener, &places) => accepted,
        };
        let (stream, peer, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => break Err(error),
        };
        let (router, options) = (router.clone(), options.clone());
        let cut = cut.clone();
        let hold = Hold { place: Arc::new(place), counted: connections.token(), ending: finish.clone() };
        connections.spawn(async move {
            tokio::select! {
                () = serve_connection(stream, peer, router, &options, hold) => {}
                () = cut.cancelled() => tracing::warn!(%peer, "connection cut at the end of the shutdown grace"),
            }
        });
    };
    drop(listener);
    finish.cancel();
    connections.close();
    if tokio::time::timeout(options.shutdown_grace, connections.wait()).await.is_err() {
        cut.cancel();
        connections.wait().await;
    }
    outcome
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return Ok((stream, peer, place)),
            // The peer was gone before we came to it.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
                ) => {}
            // Out of descriptors or memory: connections that end give some back.
            Err(error) if error.raw_os_error().is_some_and(is_exhaustion) => {
                tracing::error!(%error, "cannot take connections for now");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// EMFILE, ENFILE, ENOBUFS, ENOMEM.
fn is_exhaustion(errno: i32) -> bool {
    [24, 23, 105, 12].contains(&errno)
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    options: &ConnectionOptions,
    hold: Hold,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "could not set TCP_NODELAY");
    }
    let finish = hold.ending.clone();
    let service = router.layer(Extension(ConnectInfo(peer))).layer(Extension(hold));
    let service = service_fn(move |request: hyper::Request<Incoming>| service.clone().oneshot(request.map(Body::new)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(options.max_header_bytes.max(8192))
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(Stalling::new(stream, options.write_timeout)), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = finish.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended early");
    }
}
