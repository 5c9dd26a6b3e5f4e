//! Reads a stream of server-sent events from chunks of bytes that may end anywhere.

/// More than one event ever has: output comes in frames of at most 1 MiB, and JSON can make each byte six.
const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// A stream whose one event is larger than any that is understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("one event has more than {MAX_EVENT_BYTES} bytes")]
pub(crate) struct EventTooLarge;

/// Puts events together. Only `data` matters here; other fields and comments are passed over.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was CR: a LF right after it belongs to the same line end.
    after_cr: bool,
}

impl Decoder {
    /// Takes the next bytes and gives the data of every event that they complete.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<Vec<Vec<u8>>, EventTooLarge> {
        let mut events = Vec::new();
        let mut rest = chunk;
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_cr) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (part, next) = rest.split_at(end.unwrap_or(rest.len()));
            if self.line.len() + self.data.len() + part.len() > MAX_EVENT_BYTES {
                return Err(EventTooLarge);
            }
            self.line.extend_from_slice(part);
            if let Some(terminator) = next.first() {
                self.after_cr = *terminator == b'\r';
                events.extend(self.end_line());
                rest = &next[1..];
            } else {
                rest = next;
            }
        }
        Ok(events)
    }

    /// Handles one whole line; an empty one ends an event.
    fn end_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return std::mem::take(&mut self.has_data).then_some(data);
        }
        let value = match line.strip_prefix(b"data") {
            Some([]) => &[][..],
            Some([b':', b' ', value @ ..] | [b':', value @ ..]) => value,
            _ => return None,
        };
        if std::mem::replace(&mut self.has_data, true) {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(chunks: &[&[u8]]) -> Vec<String> {
        let mut decoder = Decoder::default();
        chunks
            .iter()
            .flat_map(|chunk| decoder.push(chunk).unwrap())
            .map(|data| String::from_utf8(data).unwrap())
            .collect()
    }

    const STREAM: &[u8] = "\
: keep alive\n\n\
event: message\ndata: {\"type\":\"stdout\",\"data\":\"h\u{e9}llo \u{1f980}\"}\n\n\
id: 4\r\ndata: one\r\ndata:two\r\n\r\n\
data\rdata: \r\r\
retry: 10\n\ndatabase: no\n\n\
data: last\n\n\
data: never ended"
        .as_bytes();

    #[test]
    fn events_are_the_same_wherever_the_bytes_are_split() {
        let whole = decode(&[STREAM]);
        assert_eq!(whole, ["{\"type\":\"stdout\",\"data\":\"h\u{e9}llo \u{1f980}\"}", "one\ntwo", "\n", "last"]);
        for first in 0..=STREAM.len() {
            let (a, b) = STREAM.split_at(first);
            assert_eq!(decode(&[a, b]), whole, "split at {first}");
        }
        let single: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(decode(&single), whole);
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut decoder = Decoder::default();
        let chunk = vec![b'x'; 1024 * 1024];
        let refused = (0..20).map(|_| decoder.push(&chunk)).find_map(Result::err);
        assert_eq!(refused, Some(EventTooLarge));
    }
}
