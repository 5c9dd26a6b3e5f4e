//! A blocking netlink socket that sends many requests at once and reads all their answers.
//!
//! The kernel answers a request while it is sent, so nothing here waits for another process; the socket
//! belongs for its whole life to the namespace of the thread that opened it.

pub(crate) mod route;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkSerializable, NlaBuffer, NlasIterator};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with, sockopt};

use crate::error::{Error, Result};

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Acknowledgements of so many requests fit in a socket's default receive buffer.
const BATCH: usize = 64;
/// A dump that changes under the reader is begun again so many times before it is taken as it is.
const DUMP_TRIES: usize = 8;

/// Which part of the kernel a socket talks to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Family {
    Route,
    Netfilter,
}

/// One request, with what to say when it is refused.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    message: Vec<u8>,
    step: &'static str,
    subject: String,
    tolerated: Vec<Errno>,
}

impl Request {
    /// A request from an encoded message; flags of the message are added to "acknowledge".
    pub(crate) fn new<T: NetlinkSerializable>(
        message: T,
        flags: u16,
        step: &'static str,
        subject: impl Into<String>,
    ) -> Self
    where
        NetlinkMessage<T>: From<T>,
    {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        Self { message: bytes, step, subject: subject.into(), tolerated: Vec::new() }
    }

    /// A request from its type and body, for what the library has no types for.
    pub(crate) fn raw(kind: u16, body: &[u8], step: &'static str, subject: impl Into<String>) -> Self {
        let mut message = vec![0; HEADER];
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        message.extend_from_slice(body);
        let length = message.len() as u32;
        message[..4].copy_from_slice(&length.to_ne_bytes());
        Self { message, step, subject: subject.into(), tolerated: Vec::new() }
    }

    /// Takes this answer of the kernel as success, for steps that may have been done before.
    pub(crate) fn or(mut self, errno: Errno) -> Self {
        self.tolerated.push(errno);
        self
    }

    fn add_flags(&mut self, flags: u16) {
        let old = u16::from_ne_bytes([self.message[6], self.message[7]]);
        self.message[6..8].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    fn refused(&self, errno: Errno) -> Error {
        Error::step(self.step, self.subject.clone(), errno)
    }
}

/// One message of the kernel: its type and what follows the netlink header.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The attributes behind a fixed header of `skip` bytes. Malformed ones end the list.
    pub(crate) fn attributes(&self, skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
        attributes(self.body.get(skip..).unwrap_or_default())
    }
}

/// The attributes in `bytes`, each with its type. Malformed ones end the list.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).map(|attribute: NlaBuffer<&[u8]>| {
        let kind = attribute.kind();
        let length = attribute.value_length();
        (kind, &attribute.into_inner()[4..4 + length])
    })
}

/// Reads a `u32` in the machine's byte order from the start of an attribute.
pub(crate) fn u32_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

/// A netlink socket of one namespace.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(family: Family) -> Result<Self> {
        let (protocol, name) = match family {
            // NETLINK_ROUTE is 0, which is what no protocol means.
            Family::Route => (None, "NETLINK_ROUTE"),
            Family::Netfilter => (Some(netlink::NETFILTER), "NETLINK_NETFILTER"),
        };
        let failed = |errno: Errno| Error::step("open netlink socket", name, errno);
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol).map_err(failed)?;
        // A lost answer must not hang a thread for ever.
        sockopt::set_socket_timeout(socket.as_fd(), sockopt::Timeout::Recv, Some(Duration::from_secs(10)))
            .map_err(failed)?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; 64 * 1024] })
    }

    /// Sends all requests, a batch at a time, and reads all answers.
    ///
    /// # Errors
    /// The first request that was refused and did not tolerate it. Later ones of the same batch have
    /// been tried all the same.
    pub(crate) fn execute(&mut self, requests: &[Request]) -> Result<()> {
        for batch in requests.chunks(BATCH) {
            self.execute_batch(batch)?;
        }
        Ok(())
    }

    fn execute_batch(&mut self, batch: &[Request]) -> Result<()> {
        let Some(first_request) = batch.first() else {
            return Ok(());
        };
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for request in batch {
            let mut request = request.clone();
            request.add_flags(NLM_F_ACK);
            self.append(&mut bytes, request.message);
        }
        self.send(&bytes).map_err(|errno| first_request.refused(errno))?;
        let mut answers: Vec<Option<i32>> = vec![None; batch.len()];
        while answers.contains(&None) {
            let replies = self.receive().map_err(|errno| first_request.refused(errno))?;
            for (sequence, _, reply) in replies {
                let at = sequence.wrapping_sub(first) as usize;
                if let (NLMSG_ERROR, Some(answer), Some(code)) = (reply.kind, answers.get_mut(at), u32_of(&reply.body))
                {
                    *answer = Some(code as i32);
                }
            }
        }
        for (request, answer) in batch.iter().zip(answers) {
            match answer.and_then(refusal) {
                Some(errno) if !request.tolerated.contains(&errno) => {
                    return Err(request.refused(errno));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Asks for a list and reads it to its end.
    pub(crate) fn dump(&mut self, request: &Request) -> Result<Vec<Reply>> {
        let mut found = Vec::new();
        for _ in 0..DUMP_TRIES {
            let (replies, whole) = self.collect(request, NLM_F_DUMP)?;
            found = replies;
            if whole {
                break;
            }
        }
        Ok(found)
    }

    /// Asks for one thing and reads the answer.
    pub(crate) fn get(&mut self, request: &Request) -> Result<Reply> {
        let (replies, _) = self.collect(request, NLM_F_ACK)?;
        replies.into_iter().next().ok_or_else(|| request.refused(Errno::NODATA))
    }

    /// Sends a request and gathers replies until the kernel says that was all. The flag is false if the
    /// list changed while it was read.
    fn collect(&mut self, request: &Request, flags: u16) -> Result<(Vec<Reply>, bool)> {
        let mut request = request.clone();
        request.add_flags(flags);
        let mut bytes = Vec::new();
        self.append(&mut bytes, request.message.clone());
        let wanted = self.sequence;
        self.send(&bytes).map_err(|errno| request.refused(errno))?;
        let (mut found, mut whole) = (Vec::new(), true);
        loop {
            for (sequence, flags, reply) in self.receive().map_err(|errno| request.refused(errno))? {
                if sequence != wanted {
                    continue;
                }
                whole &= flags & NLM_F_DUMP_INTR == 0;
                match reply.kind {
                    NLMSG_ERROR | NLMSG_DONE => match refusal(u32_of(&reply.body).unwrap_or(0) as i32) {
                        None => return Ok((found, whole)),
                        Some(errno) => return Err(request.refused(errno)),
                    },
                    _ => found.push(reply),
                }
            }
        }
    }

    /// Numbers a message and puts it behind those in `bytes`.
    fn append(&mut self, bytes: &mut Vec<u8>, mut message: Vec<u8>) {
        self.sequence = self.sequence.wrapping_add(1);
        message[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        bytes.extend_from_slice(&message);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }

    fn send(&self, bytes: &[u8]) -> std::result::Result<(), Errno> {
        let kernel = SocketAddrNetlink::new(0, 0);
        let sent = sendto(&self.socket, bytes, SendFlags::empty(), &kernel)?;
        if sent == bytes.len() { Ok(()) } else { Err(Errno::MSGSIZE) }
    }

    /// One read: the messages in it with sequence number and flags.
    fn receive(&mut self) -> std::result::Result<Vec<(u32, u16, Reply)>, Errno> {
        let (length, _) = loop {
            match recv(&self.socket, &mut self.buffer[..], RecvFlags::empty()) {
                Err(Errno::INTR) => continue,
                other => break other?,
            }
        };
        Ok(split(&self.buffer[..length]))
    }
}

/// The error in the code of an answer: 0 is none, else a negative errno.
fn refusal(code: i32) -> Option<Errno> {
    match code {
        0 => None,
        -4095..=-1 => Some(Errno::from_raw_os_error(-code)),
        _ => Some(Errno::BADMSG),
    }
}

/// Cuts a datagram of the kernel into messages with sequence number and flags.
fn split(mut bytes: &[u8]) -> Vec<(u32, u16, Reply)> {
    let mut found = Vec::new();
    while bytes.len() >= HEADER {
        let length = u32_of(bytes).unwrap_or(0) as usize;
        if length < HEADER || length > bytes.len() {
            break;
        }
        let short = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let sequence = u32_of(&bytes[8..]).unwrap_or(0);
        found.push((sequence, short(6), Reply { kind: short(4), body: bytes[HEADER..length].to_vec() }));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// Whether an error is the kernel's `errno`.
pub(crate) fn is(error: &Error, errno: Errno) -> bool {
    error.errno() == Some(io::Error::from(errno).raw_os_error().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_with_a_lying_length_ends_the_list() {
        let mut bytes = Request::raw(7, b"abcde", "test", "").message;
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let one = bytes.clone();
        bytes.extend_from_slice(&one);
        assert_eq!(split(&bytes).len(), 2);
        assert_eq!(split(&bytes)[1].2.body, b"abcde");
        let at = one.len();
        bytes[at..at + 4].copy_from_slice(&999_u32.to_ne_bytes());
        assert_eq!(split(&bytes).len(), 1);
        bytes[at..at + 4].copy_from_slice(&3_u32.to_ne_bytes());
        assert_eq!(split(&bytes).len(), 1);
    }

    #[test]
    fn a_refused_request_names_its_step_and_thing() {
        let mut netlink = Netlink::open(Family::Route).unwrap();
        let error = netlink.execute(&[route::delete_link("fpnone0")]).unwrap_err();
        assert!(is(&error, Errno::NODEV), "{error}");
        assert!(error.to_string().starts_with("delete link fpnone0: "), "{error}");
        netlink.execute(&[route::delete_link("fpnone0").or(Errno::NODEV)]).unwrap();
    }
}
