//! The documents against the tree: links lead somewhere, every message of the
//! error catalogue is in the code, every variable that the code reads is in
//! the list of settings.

use crate::{
    Violation, code,
    tree::{File, Tree},
};

const ERRORS: &str = "docs/src/errors.md";
const SETTINGS: &str = "docs/src/settings.md";

/// Links in Markdown files whose file or heading does not exist.
pub(crate) fn broken_links(tree: &Tree) -> Vec<Violation> {
    let documents = tree.files.iter().filter(|file| file.path.ends_with(".md"));
    let mut found = Vec::new();
    for document in documents {
        for (line, target) in links(&document.text) {
            if !leads_somewhere(tree, document, &target) {
                found.push(Violation::new(&document.path, line, format!("links to `{target}`")));
            }
        }
    }
    found
}

/// Messages of the error catalogue that no source file holds. They stand in
/// the first column; `…` is whatever differs.
pub(crate) fn unknown_messages(tree: &Tree) -> Vec<Violation> {
    let Some(page) = tree.file(ERRORS) else { return vec![Violation::new(ERRORS, 0, "is missing")] };
    let sources: Vec<String> = tree.shipped_rust().map(|file| plain(&file.text)).collect();
    let mut found = Vec::new();
    for (at, row) in page.text.lines().enumerate().filter(|(_, row)| row.starts_with("| `")) {
        let cell = row.trim_start_matches("| ").split(" | ").next().unwrap_or_default();
        let messages = cell.split('`').skip(1).step_by(2);
        for part in messages.flat_map(|message| message.split('…')).map(str::trim) {
            if !part.is_empty() && !sources.iter().any(|source| source.contains(part)) {
                found.push(Violation::new(ERRORS, at + 1, format!("no source says `{part}`")));
            }
        }
    }
    found
}

/// Environment variables that shipped code names and the settings do not.
pub(crate) fn unlisted_settings(tree: &Tree) -> Vec<Violation> {
    let Some(page) = tree.file(SETTINGS) else { return vec![Violation::new(SETTINGS, 0, "is missing")] };
    let is_name = |word: &&str| {
        let prefixed = word.starts_with("CONSORT_") || word.starts_with("CONSUL_");
        prefixed && !word.ends_with('_') && word.chars().all(|c| c.is_ascii_uppercase() || c == '_')
    };
    let mut found = Vec::new();
    for file in tree.shipped_rust() {
        let text = code::without_tests(&file.text);
        let names = text.lines().flat_map(|line| line.split('"').skip(1).step_by(2)).filter(is_name);
        let missing = names.filter(|name| !page.text.contains(&format!("`{name}`")));
        found.extend(missing.map(|name| Violation::new(&file.path, 0, format!("reads `{name}`"))));
    }
    found
}

/// Where the links of a document lead, with their lines; code is no link.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut is_code = false;
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        if is_code {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect();
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        found.extend(targets.map(|target| (at + 1, target.to_owned())));
    }
    found
}

fn leads_somewhere(tree: &Tree, document: &File, target: &str) -> bool {
    if target.contains("://") {
        return true;
    }
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let path = if path.is_empty() { document.path.clone() } else { resolved(&document.path, path) };
    match tree.file(&path) {
        Some(file) => heading.is_empty() || headings(&file.text).any(|known| known == heading),
        None => {
            heading.is_empty() && tree.files.iter().any(|file| file.path.starts_with(&format!("{path}/")))
        }
    }
}

/// `target` as seen from the file `from`, from the root.
fn resolved(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The names by which a document's headings are linked to.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let titles = text.lines().filter(|line| line.starts_with('#'));
    titles.map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

/// A source as people read its messages: each string on one line, without
/// escapes and backticks.
fn plain(source: &str) -> String {
    let (mut joined, mut goes_on) = (String::new(), false);
    for line in source.lines() {
        let line = if goes_on { line.trim_start() } else { line };
        goes_on = line.ends_with('\\');
        joined.push_str(line.trim_end_matches('\\'));
        joined.push_str(if goes_on { "" } else { "\n" });
    }
    joined.replace("\\\"", "\"").replace('`', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_needs_its_file_and_its_heading() {
        let tree = Tree::of(&[
            ("README.md", "[a](docs/src/a.md#two-words) [b](docs) `[c](gone)` [d](https://example.org)\n"),
            (
                "docs/src/a.md",
                "# Two words!\n```\n[code](gone)\n```\n[up](../../README.md)\n[it](#gone)\n[no](b.md)",
            ),
        ]);
        let found: Vec<String> = broken_links(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["docs/src/a.md:6: links to `#gone`", "docs/src/a.md:7: links to `b.md`"]);
    }

    #[test]
    fn a_message_is_found_across_lines_and_without_what_differs() {
        let source = "f(\"no `{x}` runs: \\\n        start \\\"it\\\"\")\n";
        let page = "| `no … runs: start \"it\"` | cause |\n| `no … walks`, `runs` | cause |\n";
        let tree = Tree::of(&[("a/src/b.rs", source), (ERRORS, page)]);
        assert_eq!(unknown_messages(&tree), [Violation::new(ERRORS, 2, "no source says `walks`")]);
    }

    #[test]
    fn a_variable_that_is_read_is_listed() {
        let source = "get(\"CONSORT_A\"); get(\"CONSORT_B\"); starts_with(\"CONSORT_\");\n";
        let tree = Tree::of(&[("a/src/b.rs", source), (SETTINGS, "| `CONSORT_A` | none |\n")]);
        assert_eq!(unlisted_settings(&tree), [Violation::new("a/src/b.rs", 0, "reads `CONSORT_B`")]);
    }
}
