//! The results as tables in the format of INTEROP.md.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::terminal::print_line;

/// The result of one case in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Passed,
    /// The cause.
    Failed(String),
    /// Not run, with the reason.
    Lacks(&'static str),
}

impl Cell {
    pub(crate) fn of(result: Result<()>) -> Self {
        match result {
            Ok(()) => Self::Passed,
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed(_) => "FAILED",
            Self::Lacks(_) => "–",
        }
    }
}

/// The results of one direction.
#[derive(Debug)]
pub(crate) struct Column {
    head: String,
    cells: BTreeMap<&'static str, Cell>,
}

impl Column {
    pub(crate) fn new(head: String) -> Self {
        Self { head, cells: BTreeMap::new() }
    }

    /// Adds the result of a case and prints it.
    pub(crate) fn push(&mut self, case: &'static str, cell: Cell) {
        match &cell {
            Cell::Failed(why) => print_line(format_args!("{}: {case} FAILED: {why}", self.head)),
            Cell::Passed => print_line(format_args!("{}: {case} passed", self.head)),
            Cell::Lacks(_) => {}
        }
        self.cells.insert(case, cell);
    }
}

/// The results of all directions.
#[derive(Debug)]
pub(crate) struct Table {
    cases: Vec<&'static str>,
    columns: Vec<Column>,
}

impl Table {
    pub(crate) fn new(cases: impl IntoIterator<Item = &'static str>) -> Self {
        Self { cases: cases.into_iter().collect(), columns: Vec::new() }
    }

    pub(crate) fn add(&mut self, column: Column) {
        self.columns.push(column);
    }

    /// The number of passed and of failed cells.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let cells = || self.columns.iter().flat_map(|column| column.cells.values());
        let passed = cells().filter(|cell| **cell == Cell::Passed).count();
        let failed = cells().filter(|cell| matches!(cell, Cell::Failed(_))).count();
        (passed, failed)
    }

    /// A table for each run of cases with the same columns, then the reasons
    /// for empty cells.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut current = Vec::new();
        for case in &self.cases {
            let columns: Vec<_> =
                self.columns.iter().filter(|column| column.cells.contains_key(case)).collect();
            let heads: Vec<_> = columns.iter().map(|column| column.head.as_str()).collect();
            if heads.is_empty() {
                continue;
            }
            if heads != current {
                lines.extend([String::new(), format!("| case | {} |", heads.join(" | "))]);
                lines.push(format!("|---|{}", "---|".repeat(heads.len())));
                current = heads;
            }
            let words: Vec<_> = columns.iter().map(|column| column.cells[case].word()).collect();
            lines.push(format!("| {case} | {} |", words.join(" | ")));
        }
        lines.push(String::new());
        lines.extend(self.reasons());
        lines
    }

    fn reasons(&self) -> impl Iterator<Item = String> {
        let mut reasons: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for column in &self.columns {
            for (case, cell) in &column.cells {
                if let Cell::Lacks(why) = cell {
                    reasons.entry((&column.head, why)).or_default().push(case);
                }
            }
        }
        reasons.into_iter().map(|((head, why), cases)| format!("– {head}: {}: {why}", cases.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_cell_is_not_counted_and_has_its_reason() {
        let mut column = Column::new("ours→go".to_owned());
        column.push("empty_unary", Cell::Passed);
        column.push("large_unary", Cell::Failed("too short".to_owned()));
        column.push("server_compressed_unary", Cell::Lacks("no gzip"));
        let mut other = Column::new("java→ours".to_owned());
        other.push("large_unary", Cell::Passed);
        let mut table = Table::new(["empty_unary", "large_unary", "server_compressed_unary", "not_run"]);
        table.add(column);
        table.add(other);
        assert_eq!(table.counts(), (2, 1));
        let text = table.lines().join("\n");
        assert!(
            text.contains("| case | ours→go | java→ours |\n|---|---|---|\n| large_unary | FAILED | passed |"),
            "{text}"
        );
        assert!(!text.contains("not_run"), "{text}");
        assert!(text.ends_with("– ours→go: server_compressed_unary: no gzip"), "{text}");
    }
}
