//! The latest output of a session, by its position in all that was ever written.

use std::collections::VecDeque;

/// A beginning that was cut is cut on up to the next line, if one begins within so many bytes: half
/// a character or half an escape sequence would spoil what follows.
const LINE_SEARCH: usize = 4096;

/// The last bytes, up to a limit.
pub(super) struct Scrollback {
    kept: VecDeque<u8>,
    limit: usize,
    /// Position after the last byte.
    end: u64,
}

impl Scrollback {
    pub(super) fn new(limit: usize) -> Scrollback {
        // With nothing kept, viewers would never see anything.
        Scrollback { kept: VecDeque::new(), limit: limit.max(LINE_SEARCH), end: 0 }
    }

    /// Position after the last byte.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Position of the first byte that is kept.
    pub(super) fn start(&self) -> u64 {
        self.end - self.kept.len() as u64
    }

    /// Where who asks for `from` begins to read; `None` asks for all.
    pub(super) fn entry(&self, from: Option<u64>) -> u64 {
        match from {
            Some(from) if from >= self.start() => from.min(self.end),
            _ => self.clean_start(),
        }
    }

    /// Position of the first byte at which reading can begin.
    pub(super) fn clean_start(&self) -> u64 {
        let start = self.start();
        if start == 0 {
            return 0;
        }
        let line = self.kept.iter().take(LINE_SEARCH).position(|byte| *byte == b'\n');
        start + line.map_or(0, |at| at as u64 + 1)
    }

    /// Adds output; the oldest makes room for it.
    pub(super) fn push(&mut self, data: &[u8]) {
        self.end += data.len() as u64;
        let data = &data[data.len().saturating_sub(self.limit)..];
        let surplus = (self.kept.len() + data.len()).saturating_sub(self.limit);
        self.kept.drain(..surplus);
        self.kept.extend(data);
    }

    /// Copies what is kept from this position on, as far as it fits; returns how much.
    pub(super) fn copy(&self, from: u64, into: &mut [u8]) -> usize {
        let skipped = from.saturating_sub(self.start()) as usize;
        let len = self.kept.len().saturating_sub(skipped).min(into.len());
        let (first, second) = self.kept.as_slices();
        let of_first = first.get(skipped..).unwrap_or_default();
        let of_first = &of_first[..of_first.len().min(len)];
        into[..of_first.len()].copy_from_slice(of_first);
        let rest = len - of_first.len();
        let begin = skipped.saturating_sub(first.len());
        into[of_first.len()..len].copy_from_slice(&second[begin..begin + rest]);
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(scrollback: &Scrollback, from: u64) -> Vec<u8> {
        let mut buffer = [0; 16 * 1024];
        let len = scrollback.copy(from, &mut buffer);
        buffer[..len].to_vec()
    }

    #[test]
    fn the_last_bytes_are_kept_at_their_positions() {
        let mut scrollback = Scrollback::new(5000);
        let all: Vec<u8> = (0..40_000u32).map(|at| (at % 251) as u8).collect();
        for piece in all.chunks(777) {
            scrollback.push(piece);
            let (start, end) = (scrollback.start() as usize, scrollback.end() as usize);
            assert_eq!(read(&scrollback, start as u64), &all[start..end]);
            let middle = start + (end - start) / 3;
            assert_eq!(read(&scrollback, middle as u64), &all[middle..end]);
        }
        assert_eq!((scrollback.start(), scrollback.end()), (35_000, 40_000));
        scrollback.push(&[7; 6000]);
        assert_eq!(read(&scrollback, scrollback.start()), [7; 5000]);
        assert_eq!(read(&scrollback, scrollback.end()), b"");
    }

    #[test]
    fn a_cut_beginning_is_left_out_up_to_the_next_line() {
        let mut scrollback = Scrollback::new(5000);
        scrollback.push(b"one\ntwo\n");
        assert_eq!(scrollback.entry(None), 0);
        scrollback.push(&[b'x'; 4996]);
        assert_eq!((scrollback.start(), scrollback.entry(None)), (4, 8));
        assert_eq!(
            (scrollback.entry(Some(5)), scrollback.entry(Some(1)), scrollback.entry(Some(u64::MAX))),
            (5, 8, 5004)
        );
    }
}
