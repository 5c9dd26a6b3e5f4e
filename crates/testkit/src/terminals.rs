//! Terminals without processes: they echo what they are given.

use async_trait::async_trait;
use bytes::Bytes;
use forkpoint_domain::ids::{SandboxId, TerminalId};
use forkpoint_engine::ports::{
    guest::{Command, ExecExit, GuestError},
    terminal::{Attached, Terminal, TerminalEvent, TerminalInput, TerminalSize, TerminalSpec},
};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// All terminals of a runtime. Clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeTerminals(Arc<Mutex<HashMap<SandboxId, Vec<FakeTerminal>>>>);

#[derive(Debug, Clone)]
struct FakeTerminal {
    id: TerminalId,
    state: watch::Sender<State>,
}

#[derive(Debug, Clone)]
struct State {
    terminal: Terminal,
    output: Vec<u8>,
}

fn missing() -> GuestError {
    GuestError::NotFound("no session has this id".into())
}

impl FakeTerminals {
    fn all(&self) -> MutexGuard<'_, HashMap<SandboxId, Vec<FakeTerminal>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open(&self, sandbox: SandboxId, spec: TerminalSpec) -> Terminal {
        let command = match spec.command {
            Command::Shell(text) => text,
            Command::Argv(argv) => argv.join(" "),
        };
        let terminal = Terminal {
            id: spec.id,
            pid: 7,
            command,
            size: spec.size,
            started_at: Timestamp::UNIX_EPOCH,
            written: 0,
            viewers: 0,
            ended: None,
        };
        let state = State { terminal: terminal.clone(), output: Vec::new() };
        let made = FakeTerminal { id: spec.id, state: watch::Sender::new(state) };
        self.all().entry(sandbox).or_default().push(made);
        terminal
    }

    pub(crate) fn list(&self, sandbox: SandboxId) -> Vec<Terminal> {
        let all = self.all();
        all.get(&sandbox).into_iter().flatten().map(|one| one.state.borrow().terminal.clone()).collect()
    }

    pub(crate) fn close(&self, sandbox: SandboxId, id: TerminalId) -> Result<(), GuestError> {
        let closed = self.find(sandbox, id)?;
        closed.end(137);
        self.all().entry(sandbox).or_default().retain(|one| one.id != id);
        Ok(())
    }

    pub(crate) fn attach(&self, sandbox: SandboxId, id: TerminalId, from: Option<u64>) -> Result<Attached, GuestError> {
        let found = self.find(sandbox, id)?;
        let (terminal, position) = {
            let state = found.state.borrow();
            (state.terminal.clone(), from.unwrap_or(0).min(state.output.len() as u64))
        };
        let told = stream::unfold(Some((found.state.subscribe(), position as usize)), |looking| async {
            let (mut state, at) = looking?;
            let news = state.wait_for(|state| state.output.len() > at || state.terminal.ended.is_some()).await;
            let (output, ended) = match &news {
                Ok(state) => (Bytes::copy_from_slice(&state.output[at..]), state.terminal.ended),
                Err(_) => return Some((TerminalEvent::Lost("it is gone".into()), None)),
            };
            drop(news);
            match ended {
                Some(exit) if output.is_empty() => Some((TerminalEvent::Exit(exit), None)),
                _ => {
                    let at = at + output.len();
                    Some((TerminalEvent::Output(output), Some((state, at))))
                }
            }
        });
        Ok(Attached { terminal, position, events: told.boxed(), input: Arc::new(found) })
    }

    fn find(&self, sandbox: SandboxId, id: TerminalId) -> Result<FakeTerminal, GuestError> {
        let all = self.all();
        all.get(&sandbox).into_iter().flatten().find(|one| one.id == id).cloned().ok_or_else(missing)
    }
}

impl FakeTerminal {
    fn end(&self, code: i32) {
        self.state.send_modify(|state| {
            state.terminal.ended.get_or_insert(ExecExit { code, ..ExecExit::default() });
        });
    }
}

#[async_trait]
impl TerminalInput for FakeTerminal {
    async fn write(&self, data: Bytes) -> Result<(), GuestError> {
        self.state.send_modify(|state| {
            state.output.extend_from_slice(&data);
            state.terminal.written = state.output.len() as u64;
        });
        Ok(())
    }

    async fn end(&self) -> Result<(), GuestError> {
        FakeTerminal::end(self, 0);
        Ok(())
    }

    async fn resize(&self, size: TerminalSize) -> Result<(), GuestError> {
        self.state.send_modify(|state| state.terminal.size = Some(size));
        Ok(())
    }

    async fn signal(&self, signal: i32) -> Result<(), GuestError> {
        FakeTerminal::end(self, 128 + signal);
        Ok(())
    }
}
