//! Makes a restored memory image a sandbox of its own.

use forkpoint_protocol::Refresh;
use rustix::fs::{FileType, Mode, OFlags};

use crate::agent::Agent;
use crate::failure::Failure;

/// More seed than this adds nothing.
const MAX_SEED: usize = 4096;
/// The kernel's limit.
const MAX_HOSTNAME: usize = 64;

/// Host name first, as it can fail; the token last, so that a failed refresh can be repeated.
pub(crate) fn refresh(agent: &Agent, refresh: &Refresh) -> Result<(), Failure> {
    if refresh.seed.len() > MAX_SEED {
        return Err(Failure::invalid(format!("seed of {} bytes: at most {MAX_SEED}", refresh.seed.len())));
    }
    if let Some(hostname) = &refresh.hostname {
        if hostname.is_empty() || hostname.len() > MAX_HOSTNAME {
            let message = format!("host name of {} bytes: must have 1 to {MAX_HOSTNAME}", hostname.len());
            return Err(Failure::invalid(message));
        }
        rustix::system::sethostname(hostname).map_err(|errno| Failure::doing("set the host name", errno))?;
    }
    if !refresh.seed.is_empty() {
        mix_in(&refresh.seed)?;
    }
    if let Some(token) = refresh.token {
        agent.token.set(token);
    }
    Ok(())
}

/// Anybody may add to the kernel's pool; it makes the state differ from that of other forks.
fn mix_in(seed: &[u8]) -> Result<(), Failure> {
    let failed = |errno| Failure::doing("seed /dev/urandom", errno);
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/urandom", flags, Mode::empty()).map_err(failed)?;
    let stat = rustix::fs::fstat(&device).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice {
        return Err(Failure::invalid("seed /dev/urandom: it is no device any more"));
    }
    rustix::io::write(&device, seed).map_err(failed)?;
    Ok(())
}
