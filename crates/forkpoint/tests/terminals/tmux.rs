//! The program in a real terminal: tmux, on a socket of its own, whose address for the server stays the same.

use crate::support::Server;
use std::{
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::net::{TcpListener, TcpStream};

/// A tmux server with one window. Ended when dropped.
pub struct Tmux {
    folder: tempfile::TempDir,
    /// Where connections to `url` go.
    target: Arc<Mutex<String>>,
    url: String,
    key: String,
    /// The tmux server, once there is one.
    pid: Option<rustix::process::Pid>,
}

impl Tmux {
    /// `None`, with a reason printed, where there is no tmux.
    pub async fn start() -> Option<Self> {
        if Command::new("tmux").arg("-V").stdout(Stdio::null()).status().is_err() {
            println!("skipped: tmux is not installed (scripts/packages --test installs it)");
            return None;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let target = Arc::new(Mutex::new(String::new()));
        tokio::spawn(forward(listener, target.clone()));
        Some(Self { folder: tempfile::tempdir().unwrap(), target, url, key: String::new(), pid: None })
    }

    /// From now on the program's connections go to this server.
    pub fn point_at(&mut self, server: &Server) {
        *self.target.lock().unwrap() = server.url.strip_prefix("http://").unwrap().to_owned();
        self.key.clone_from(&server.key);
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            .arg("-S")
            .arg(self.folder.path().join("socket"))
            .args(["-f", "/dev/null"])
            .args(args)
            .env_remove("TMUX")
            .env("LC_ALL", "C.UTF-8")
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Opens the window with a shell and runs a line in it.
    pub async fn run(&mut self, line: &str) {
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_forkpoint"));
        let shell = format!(
            "env -i HOME='{}' PATH='{}':/usr/bin:/bin TERM=\"$TERM\" FORKPOINT_URL='{}' FORKPOINT_KEY='{}' PS1='out> ' bash --norc -i",
            self.folder.path().display(),
            program.parent().unwrap().display(),
            self.url,
            self.key,
        );
        self.tmux(&["new-session", "-d", "-x", "80", "-y", "24", &shell]);
        let pid = self.tmux(&["display-message", "-p", "#{pid}"]);
        self.pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap());
        self.tmux(&["set-option", "-g", "window-size", "manual"]);
        self.until("out> ", "the outer prompt").await;
        self.keys(line).await;
        self.press("Enter").await;
    }

    /// Types text.
    pub async fn keys(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
    }

    /// Presses a key by tmux's name for it.
    pub async fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    pub async fn resize(&self, cols: u16, rows: u16) {
        self.tmux(&["resize-window", "-x", &cols.to_string(), "-y", &rows.to_string()]);
    }

    /// What is on the screen and before, with colours.
    pub async fn coloured(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e", "-S", "-200"])
    }

    /// Waits until the screen shows this; gives the screen.
    pub async fn until(&self, wanted: &str, what: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let screen = self.tmux(&["capture-pane", "-p", "-J", "-S", "-200"]);
            let plain: String = screen.lines().map(|line| format!("{}\n", line.trim_end())).collect();
            if plain.contains(wanted) || screen.contains(wanted) {
                return plain;
            }
            assert!(Instant::now() < deadline, "{what} ({wanted:?}) did not come:\n{plain}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        // What runs in the window gets a hang-up with that.
        if let Some(pid) = self.pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Passes connections on to wherever the server is now; each ends when either side does.
async fn forward(listener: TcpListener, target: Arc<Mutex<String>>) {
    while let Ok((mut near, _)) = listener.accept().await {
        let target = target.lock().unwrap().clone();
        tokio::spawn(async move {
            if let Ok(mut far) = TcpStream::connect(target).await {
                let _ = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}
