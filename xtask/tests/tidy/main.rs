//! What must hold for the tree as text: which module may know which, how long
//! a file may be, what may not be written. Each failure says why the rule is
//! there; a rule that makes the code worse is changed here, with its reason.

mod code;
mod documents;
mod imports;
mod manifests;
mod map;
mod marks;
mod tree;

use std::fmt;

use tree::Tree;

/// A place where a rule does not hold.
#[derive(Debug, PartialEq, Eq)]
struct Violation {
    file: String,
    /// 0 where the whole file is meant.
    line: usize,
    what: String,
}

impl Violation {
    fn new(file: &str, line: usize, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.what),
            line => write!(f, "{}:{line}: {}", self.file, self.what),
        }
    }
}

/// Fails with every place and the one reason.
#[track_caller]
fn hold(violations: &[Violation], why: &str) {
    let lines: Vec<String> = violations.iter().map(|violation| format!("  {violation}\n")).collect();
    assert!(lines.is_empty(), "{} not tidy:\n{}why: {why}", lines.len(), lines.concat());
}

#[test]
fn consul_is_followed_without_knowing_of_calls() {
    let rule = &imports::CONSUL;
    hold(&imports::broken(rule, &Tree::load()), rule.why);
}

#[test]
fn a_channel_works_over_any_resolver() {
    let rule = &imports::CHANNEL;
    hold(&imports::broken(rule, &Tree::load()), rule.why);
}

#[test]
fn the_core_knows_no_transport() {
    let rule = &imports::CORE;
    hold(&imports::broken(rule, &Tree::load()), rule.why);
}

#[test]
fn no_file_is_longer_than_one_can_keep_in_mind() {
    const MOST: usize = 400;
    let long = |file: &tree::File| {
        let lines = code::lines_without_tests(&file.text);
        (lines > MOST).then(|| Violation::new(&file.path, 0, format!("{lines} lines without its tests")))
    };
    let found: Vec<_> = Tree::load().shipped_rust().filter_map(long).collect();
    hold(&found, "above 400 lines a file holds more than one idea: split it by what it knows");
}

#[test]
fn a_module_stands_beside_its_folder() {
    let tree = Tree::load();
    let found: Vec<_> = tree
        .rust()
        .filter(|file| file.path.ends_with("/mod.rs") && !file.path.contains("/tests/"))
        .map(|file| Violation::new(&file.path, 0, "is a mod.rs"))
        .collect();
    hold(&found, "`foo.rs` beside `foo/` is found by its name; ten open files named mod.rs are not");
}

#[test]
fn nothing_unwraps_outside_tests() {
    let tree = Tree::load();
    let found: Vec<_> = tree.shipped_rust().flat_map(marks::unwraps).collect();
    hold(&found, "an unwrap is an error without its cause: return it, or make the state impossible");
}

#[test]
fn an_ignored_test_says_why() {
    let tree = Tree::load();
    let found: Vec<_> = tree.rust().flat_map(marks::silent_ignores).collect();
    hold(&found, "a test that does not run and does not say why is forgotten: #[ignore = \"reason\"]");
}

#[test]
fn what_is_not_done_is_not_marked_in_the_code() {
    let tree = Tree::load();
    let found: Vec<_> = tree.files.iter().flat_map(marks::reminders).collect();
    hold(&found, "a mark in the code is work that nobody is asked to do: do it, or file it");
}

#[test]
fn no_machine_and_no_registry_is_named() {
    let tree = Tree::load();
    let found: Vec<_> = tree.files.iter().flat_map(marks::places).collect();
    hold(&found, "the tree works on any machine and behind any mirror; paths and hosts are settings there");
}

#[test]
fn every_file_is_text() {
    let tree = Tree::load();
    let found: Vec<_> =
        tree.binaries.iter().map(|path| Violation::new(path, 0, "is not UTF-8 text")).collect();
    hold(&found, "what cannot be read in a diff cannot be reviewed; binaries are built, not kept");
}

#[test]
fn every_crate_obeys_the_workspace_lints() {
    let tree = Tree::load();
    hold(&manifests::without_lints(&tree), "a crate without `[lints] workspace = true` has no lints at all");
}

#[test]
fn the_code_map_is_the_tree() {
    let tree = Tree::load();
    hold(
        &map::untrue(&tree),
        "newcomers navigate by the code map; a path there is whole, from the root, in backticks",
    );
}

#[test]
fn links_of_documents_lead_somewhere() {
    hold(&documents::broken_links(&Tree::load()), "a reader who follows a dead link does not come back");
}

#[test]
fn messages_of_the_error_catalogue_are_in_the_code() {
    hold(
        &documents::unknown_messages(&Tree::load()),
        "people search the catalogue for the words that they have seen; change both together",
    );
}

#[test]
fn settings_that_are_read_are_documented() {
    hold(&documents::unlisted_settings(&Tree::load()), "a variable that is in no list cannot be found");
}
