//! Stands between a client and a PostgreSQL server, and cuts the line at the first COMMIT.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{UnixListener, UnixStream},
};

/// What becomes of the first COMMIT that is seen; everything later passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The server gets it and answers, the client never hears.
    Answer,
    /// The server never gets it.
    Request,
}

/// The message by which the driver commits: type, length, text.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// Listens in `directory` under the socket name that clients look for, in front of the server whose sockets are in `server`.
/// Gives whether it has cut.
pub(crate) fn start(directory: &Path, server: &Path, cut: Cut) -> Arc<AtomicBool> {
    let name = ".s.PGSQL.5432";
    let listener = UnixListener::bind(directory.join(name)).unwrap();
    let server = server.join(name);
    let done = Arc::new(AtomicBool::new(false));
    let has_cut = done.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = UnixStream::connect(&server).await.unwrap();
            tokio::spawn(carry(client, server, cut, done.clone()));
        }
    });
    has_cut
}

async fn carry(mut client: UnixStream, mut server: UnixStream, cut: Cut, done: Arc<AtomicBool>) {
    if done.load(Ordering::SeqCst) {
        copy_bidirectional(&mut client, &mut server).await.ok();
        return;
    }
    let (mut asked, mut answered) = ([0; 65536], [0; 65536]);
    loop {
        tokio::select! {
            // The driver sends one message and waits, so a COMMIT is never split or joined with another.
            length = client.read(&mut asked) => match length {
                Ok(length) if length > 0 => {
                    if &asked[..length] == COMMIT && !done.swap(true, Ordering::SeqCst) {
                        if cut == Cut::Answer {
                            server.write_all(COMMIT).await.unwrap();
                            assert!(server.read(&mut answered).await.unwrap() > 0);
                        }
                        return;
                    }
                    if server.write_all(&asked[..length]).await.is_err() { return }
                }
                _ => return,
            },
            length = server.read(&mut answered) => match length {
                Ok(length) if length > 0 => if client.write_all(&answered[..length]).await.is_err() { return },
                _ => return,
            },
        }
    }
}
