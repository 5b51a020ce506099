//! What passed and what failed, as a table that INTEROP.md can hold.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::say;

/// One case in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Passed,
    /// Why.
    Failed(String),
    /// Not run, for that reason.
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

/// One direction.
#[derive(Debug)]
pub(crate) struct Column {
    head: String,
    cells: BTreeMap<&'static str, Cell>,
}

impl Column {
    pub(crate) fn new(head: String) -> Self {
        Self { head, cells: BTreeMap::new() }
    }

    /// Notes how a case went, and says so when it failed.
    pub(crate) fn push(&mut self, case: &'static str, cell: Cell) {
        match &cell {
            Cell::Failed(why) => say(format_args!("{}: {case} FAILED: {why}", self.head)),
            Cell::Passed => say(format_args!("{}: {case} passed", self.head)),
            Cell::Lacks(_) => {}
        }
        self.cells.insert(case, cell);
    }
}

/// All of it.
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

    /// How many cells passed and failed.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let cells = || self.columns.iter().flat_map(|column| column.cells.values());
        let passed = cells().filter(|cell| **cell == Cell::Passed).count();
        let failed = cells().filter(|cell| matches!(cell, Cell::Failed(_))).count();
        (passed, failed)
    }

    /// The table, and below it why cells are empty.
    pub(crate) fn lines(&self) -> Vec<String> {
        let heads: Vec<_> = self.columns.iter().map(|column| column.head.as_str()).collect();
        let mut lines =
            vec![format!("| case | {} |", heads.join(" | ")), format!("|---|{}", "---|".repeat(heads.len()))];
        for case in &self.cases {
            let words: Vec<_> =
                self.columns.iter().map(|column| column.cells.get(case).map_or("–", Cell::word)).collect();
            lines.push(format!("| {case} | {} |", words.join(" | ")));
        }
        let mut reasons: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for column in &self.columns {
            for (case, cell) in &column.cells {
                if let Cell::Lacks(why) = cell {
                    reasons.entry((why, &column.head)).or_default().push(case);
                }
            }
        }
        lines.push(String::new());
        for ((why, head), cases) in reasons {
            lines.push(format!("– {head}: {}: {why}", cases.join(", ")));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_that_was_not_run_counts_neither_way_and_says_why() {
        let mut column = Column::new("ours→go".to_owned());
        column.push("empty_unary", Cell::Passed);
        column.push("large_unary", Cell::Failed("too short".to_owned()));
        column.push("server_compressed_unary", Cell::Lacks("no gzip"));
        let mut table = Table::new(["empty_unary", "large_unary", "server_compressed_unary"]);
        table.add(column);
        assert_eq!(table.counts(), (1, 1));
        let text = table.lines().join("\n");
        assert!(text.contains("| large_unary | FAILED |"), "{text}");
        assert!(text.ends_with("– ours→go: server_compressed_unary: no gzip"), "{text}");
    }
}
