//! What commands print: tables for people, stable tab-separated columns for pipes, the API's JSON for programs.

use jiff::Timestamp;
use serde_json::Value;
use std::io::{self, IsTerminal as _, Write as _};

/// How this invocation prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Print the API's JSON.
    pub(crate) json: bool,
    /// Standard output is a terminal.
    pub(crate) terminal: bool,
}

impl Output {
    /// Prints JSON if asked to, else for what standard output is.
    pub(crate) fn new(json: bool) -> Self {
        Self { json, terminal: io::stdout().is_terminal() }
    }

    /// Prints a value as indented JSON.
    pub(crate) fn value(&self, value: &Value) -> io::Result<()> {
        // Values made of JSON cannot fail to be JSON again.
        let text = serde_json::to_string_pretty(value).unwrap_or_default();
        self.line(&text)
    }

    /// Prints one line.
    pub(crate) fn line(&self, text: &str) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{text}")
    }

    /// Prints a table.
    pub(crate) fn table(&self, headers: &[&str], rows: &[Vec<Cell>]) -> io::Result<()> {
        io::stdout().lock().write_all(render_table(self.terminal, Timestamp::now(), headers, rows).as_bytes())
    }

    /// Prints JSON, or else what `text` gives.
    pub(crate) fn value_or(&self, value: &Value, text: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.json { self.value(value) } else { text() }
    }
}

/// One cell, shown in one way to people and in another to programs.
#[derive(Debug, Clone)]
pub(crate) enum Cell {
    /// Text.
    Text(String),
    /// Bytes: binary units for people, a plain number for programs.
    Bytes(Option<u64>),
    /// A moment: the distance from now for people, ISO 8601 for programs.
    Time(String),
}

impl Cell {
    /// A text or number field of a JSON object.
    pub(crate) fn text(object: &Value, name: &str) -> Self {
        Self::Text(text(object, name))
    }

    /// A field that counts bytes.
    pub(crate) fn bytes(object: &Value, name: &str) -> Self {
        Self::Bytes(object.get(name).and_then(Value::as_u64))
    }

    /// A field that is a moment.
    pub(crate) fn time(object: &Value, name: &str) -> Self {
        Self::Time(text(object, name))
    }

    fn show(&self, terminal: bool, now: Timestamp) -> String {
        let shown = match self {
            Self::Text(text) => clean(text),
            Self::Bytes(None) => String::new(),
            Self::Bytes(Some(bytes)) if terminal => human_bytes(*bytes),
            Self::Bytes(Some(bytes)) => bytes.to_string(),
            Self::Time(text) if terminal => human_time(text, now),
            Self::Time(text) => clean(text),
        };
        if shown.is_empty() { "-".to_owned() } else { shown }
    }
}

/// A field of a JSON object as text; empty when it is missing or null.
pub(crate) fn text(object: &Value, name: &str) -> String {
    match object.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The text with control characters made visible: names come from others and must not steer the terminal.
pub(crate) fn clean(text: &str) -> String {
    // Bidirectional overrides reorder what follows them on the screen.
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if steers(c) {
            shown.extend(c.escape_default())
        } else {
            shown.push(c)
        }
        shown
    })
}

/// Bytes in binary units, one decimal: `128.0 MB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KB", "MB", "GB", "TB", "PB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        // From 1023.95 on, one decimal would show 1024.0.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A moment as its distance from now: `3m ago`, `in 2h`.
pub(crate) fn human_time(text: &str, now: Timestamp) -> String {
    let Ok(time) = text.parse::<Timestamp>() else { return clean(text) };
    let seconds = time.duration_since(now).as_secs();
    let size = seconds.unsigned_abs();
    let distance = match size {
        0..60 => format!("{size}s"),
        60..3_600 => format!("{}m", size / 60),
        3_600..172_800 => format!("{}h", size / 3_600),
        _ => format!("{}d", size / 86_400),
    };
    if seconds > 0 { format!("in {distance}") } else { format!("{distance} ago") }
}

/// Draws a table: aligned for a terminal, else one line a row with tabs between columns.
pub(crate) fn render_table(terminal: bool, now: Timestamp, headers: &[&str], rows: &[Vec<Cell>]) -> String {
    let shown: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| cell.show(terminal, now)).collect()).collect();
    if !terminal {
        let lines = shown.iter().map(|row| row.join("\t"));
        return std::iter::once(headers.join("\t")).chain(lines).fold(String::new(), |text, line| text + &line + "\n");
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_header(headers.iter().copied()).add_rows(shown);
    table.to_string().lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table(terminal: bool) -> String {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let object =
            json!({"id": "cp-1", "name": "a\tb\u{1b}[31m", "size": 134_217_728, "at": "2025-12-31T23:57:00.000Z"});
        let row = vec![
            Cell::text(&object, "id"),
            Cell::text(&object, "name"),
            Cell::bytes(&object, "size"),
            Cell::time(&object, "at"),
            Cell::text(&object, "nothing"),
        ];
        render_table(terminal, now, &["ID", "NAME", "SIZE", "CREATED", "NOTE"], &[row])
    }

    #[test]
    fn pipes_get_tabs_and_exact_values() {
        assert_eq!(
            table(false),
            "ID\tNAME\tSIZE\tCREATED\tNOTE\ncp-1\ta\\tb\\u{1b}[31m\t134217728\t2025-12-31T23:57:00.000Z\t-\n"
        );
    }

    #[test]
    fn people_get_aligned_columns_and_nothing_that_steers_their_terminal() {
        let text = table(true);
        assert!(text.contains("128.0 MB") && text.contains("3m ago"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert_eq!(clean("x\u{202e}y"), "x\\u{202e}y");
    }

    #[test]
    fn sizes_and_times_as_people_say_them() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KB"),
            (1_048_575, "1.0 MB"),
            (36_700_160, "35.0 MB"),
            (u64::MAX, "16384.0 PB"),
        ] {
            assert_eq!(human_bytes(bytes), shown);
        }
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (time, shown) in [
            ("2026-01-01T00:00:00Z", "0s ago"),
            ("2026-01-01T00:59:00Z", "in 59m"),
            ("2025-12-31T22:00:00Z", "2h ago"),
            ("2025-12-01T00:00:00Z", "31d ago"),
            ("soon", "soon"),
        ] {
            assert_eq!(human_time(time, now), shown);
        }
    }
}
