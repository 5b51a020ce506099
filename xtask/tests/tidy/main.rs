//! Rules about the tree as text: the modules that a module may use, the length
//! of a file, forbidden words. Each failure has the reason of its rule; a rule
//! that makes the code worse is changed here, with its reason.

mod code;
mod documents;
mod imports;
mod manifests;
mod map;
mod marks;
mod tree;
mod words;

use std::fmt;

use tree::Tree;

/// A place where a rule does not hold.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    file: String,
    /// 0 where the whole file is meant.
    line: usize,
    problem: String,
}

impl Violation {
    fn new(file: &str, line: usize, problem: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, problem: problem.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.problem),
            line => write!(f, "{}:{line}: {}", self.file, self.problem),
        }
    }
}

/// Fails with every violation and the reason of the rule.
#[track_caller]
fn check(violations: &[Violation], why: &str) {
    let lines: Vec<String> = violations.iter().map(|violation| format!("  {violation}\n")).collect();
    assert!(lines.is_empty(), "{} not tidy:\n{}why: {why}", lines.len(), lines.concat());
}

#[test]
fn consul_does_not_use_the_channel() {
    let rule = &imports::CONSUL;
    check(&imports::violations(rule, &Tree::load()), rule.why);
}

#[test]
fn a_channel_works_over_any_resolver() {
    let rule = &imports::CHANNEL;
    check(&imports::violations(rule, &Tree::load()), rule.why);
}

#[test]
fn the_core_does_not_use_the_transport() {
    let rule = &imports::CORE;
    check(&imports::violations(rule, &Tree::load()), rule.why);
}

#[test]
fn no_file_is_longer_than_400_lines() {
    const MAX_LINES: usize = 400;
    let long = |file: &tree::File| {
        let lines = code::lines_without_tests(&file.text);
        (lines > MAX_LINES).then(|| Violation::new(&file.path, 0, format!("{lines} lines without its tests")))
    };
    let found: Vec<_> = Tree::load().shipped_rust().filter_map(long).collect();
    check(&found, "above 400 lines a file holds more than one idea: split it by its parts");
}

#[test]
fn a_module_stands_beside_its_folder() {
    let tree = Tree::load();
    let found: Vec<_> = tree
        .rust()
        .filter(|file| file.path.ends_with("/mod.rs") && !file.path.contains("/tests/"))
        .map(|file| Violation::new(&file.path, 0, "is a mod.rs"))
        .collect();
    check(&found, "`foo.rs` beside `foo/` is found by its name; ten open files named mod.rs are not");
}

#[test]
fn no_code_unwraps_outside_tests() {
    let tree = Tree::load();
    let found: Vec<_> = tree.shipped_rust().flat_map(marks::unwraps).collect();
    check(&found, "an unwrap is an error without its cause: return it, or make the state impossible");
}

#[test]
fn an_ignored_test_has_its_reason() {
    let tree = Tree::load();
    let found: Vec<_> = tree.rust().flat_map(marks::silent_ignores).collect();
    check(&found, "a test that is skipped without a reason is never repaired: #[ignore = \"reason\"]");
}

#[test]
fn open_work_is_not_marked_in_the_code() {
    let tree = Tree::load();
    let found: Vec<_> = tree.files.iter().flat_map(marks::reminders).collect();
    check(&found, "a mark in the code is work without an owner: do it, or file it");
}

#[test]
fn no_replaced_word_comes_back() {
    let tree = Tree::load();
    let found: Vec<_> = tree.files.iter().flat_map(words::replaced).collect();
    check(&found, "code and documents use the words of the trade, one word for one thing");
}

#[test]
fn no_machine_and_no_package_registry_is_named() {
    let tree = Tree::load();
    let found: Vec<_> = tree.files.iter().flat_map(marks::places).collect();
    check(&found, "the tree works on any machine and behind any mirror; paths and hosts are settings there");
}

#[test]
fn every_file_is_text() {
    let tree = Tree::load();
    let found: Vec<_> =
        tree.binaries.iter().map(|path| Violation::new(path, 0, "is not UTF-8 text")).collect();
    check(&found, "a file that is not text cannot be reviewed in a diff; binaries are built, not kept");
}

#[test]
fn every_crate_has_the_workspace_lints() {
    let tree = Tree::load();
    check(&manifests::without_lints(&tree), "a crate without `[lints] workspace = true` has no lints at all");
}

#[test]
fn the_code_map_matches_the_tree() {
    let tree = Tree::load();
    check(
        &map::differences(&tree),
        "newcomers navigate by the code map; a path there is whole, from the root, in backticks",
    );
}

#[test]
fn links_of_documents_lead_somewhere() {
    check(&documents::broken_links(&Tree::load()), "a reader who follows a dead link does not come back");
}

#[test]
fn messages_of_the_error_catalogue_are_in_the_code() {
    check(
        &documents::unknown_messages(&Tree::load()),
        "people search the catalogue for the words that they have seen; change both together",
    );
}

#[test]
fn settings_that_are_read_are_documented() {
    check(&documents::unlisted_settings(&Tree::load()), "a variable that is in no list cannot be found");
}
