//! The bench's result as a table, as Markdown and as JSON.

use super::{
    host::HostFacts,
    row::{Row, Statistic, Target, Unit},
};
use serde::Serialize;
use std::fmt::Write as _;

/// Everything that one run of the bench found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What it ran on.
    pub(crate) host: HostFacts,
    /// The measurements.
    pub(crate) rows: Vec<Row>,
}

impl Report {
    /// As a page of Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from("| fact | value |\n|---|---|\n");
        for (name, value) in self.host.lines() {
            text.extend(["| ", name, " | ", &escape(&value), " |\n"]);
        }
        text.push_str("\n| row | what | runs | p50 | p95 | p99 | max | × floor | target | reached |\n");
        text.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
        for row in &self.rows {
            let cells = cells(row);
            let what = if row.note.is_empty() { row.what.to_owned() } else { format!("{} ({})", row.what, row.note) };
            // Writing to a text cannot fail.
            let _ = writeln!(
                text,
                "| {} | {} | {} |",
                row.name.as_str(),
                escape(&what),
                cells.map(|cell| escape(&cell)).join(" | ")
            );
        }
        text
    }
}

/// The figures of a row as text: runs, p50, p95, p99, max, ratio to the floor, target, reached.
pub(crate) fn cells(row: &Row) -> [String; 8] {
    let none = || "-".to_owned();
    let figure = |get: fn(&super::stats::Summary) -> f64| {
        row.summary.as_ref().map_or_else(none, |summary| show(get(summary), row.unit))
    };
    [
        row.summary.map_or_else(none, |summary| summary.runs.to_string()),
        figure(|s| s.p50),
        figure(|s| s.p95),
        figure(|s| s.p99),
        figure(|s| s.max),
        row.floor_ratio.map_or_else(none, |ratio| format!("{ratio:.1}")),
        if row.targets.is_empty() {
            none()
        } else {
            row.targets.iter().map(|t| target(t, row.unit)).collect::<Vec<_>>().join(", ")
        },
        row.reached.map_or_else(none, |reached| if reached { "yes" } else { "no" }.to_owned()),
    ]
}

fn show(figure: f64, unit: Unit) -> String {
    let digits = if figure >= 100.0 {
        0
    } else if figure >= 10.0 {
        1
    } else {
        2
    };
    format!("{figure:.digits$} {}", unit.as_str())
}

fn target(target: &Target, unit: Unit) -> String {
    let statistic = match target.statistic {
        Statistic::P50 => "p50",
        Statistic::P95 => "p95",
        Statistic::P99 => "p99",
    };
    let sign = if target.at_most { '≤' } else { '≥' };
    let digits = if target.bound.fract() == 0.0 { 0 } else { 1 };
    format!("{statistic} {sign} {:.digits$} {}", target.bound, unit.as_str())
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::{super::row::Name, *};

    #[test]
    fn rows_become_lines_of_markdown() {
        let rows = vec![
            Row::judge(Name::Create, vec![9.0, 12.25, 110.0].into(), Some(2.5)),
            Row::failure(Name::Fork, "a | b\nc".into()),
        ];
        let report = Report { host: HostFacts::default(), rows };
        let text = report.markdown();
        assert!(
            text.contains("| create | create until a command answers | 3 | 12.2 ms | 110 ms | 110 ms | 110 ms | 4.9 | p50 ≤ 15 ms, p99 ≤ 60 ms | no |\n"),
            "{text}"
        );
        assert!(text.contains("| fork | fork until a command answers (failed: a \\| b c) | - |"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["rows"][0]["unit"], "ms");
        assert_eq!(json["rows"][0]["name"], "create");
        assert_eq!(json["rows"][0]["targets"][1]["statistic"], "p99");
    }
}
