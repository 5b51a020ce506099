//! Forbidden text: unwraps, marks of open work, paths of one machine.

use crate::{Violation, code, tree::File};

/// Split by `concat!`, so that this file does not contain them.
const REMINDERS: [&str; 4] =
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("HA", "CK"), concat!("unimple", "mented!")];

const PLACES: [&str; 13] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("python", "hosted.org"),
    concat!("proxy.gol", "ang.org"),
    concat!("sum.gol", "ang.org"),
    concat!("registry.npm", "js.org"),
    concat!("deb.deb", "ian.org"),
    concat!("snapshot.deb", "ian.org"),
    concat!("repo1.mav", "en.org"),
];

/// Files that contain the addresses of a package registry.
const WRITTEN_BY_TOOLS: [&str; 1] = ["Cargo.lock"];

/// `.unwrap()` outside tests.
pub(crate) fn unwraps(file: &File) -> Vec<Violation> {
    let code = code::without_tests(&code::blank(&file.text));
    lines_with(&code, |line| line.contains(".unwrap()"))
        .map(|line| Violation::new(&file.path, line, "unwraps"))
        .collect()
}

/// `#[ignore]` without a reason.
pub(crate) fn silent_ignores(file: &File) -> Vec<Violation> {
    lines_with(&code::blank(&file.text), |line| line.replace(' ', "").contains("#[ignore]"))
        .map(|line| Violation::new(&file.path, line, "ignores a test without a reason"))
        .collect()
}

/// Marks of open work, as whole words.
pub(crate) fn reminders(file: &File) -> Vec<Violation> {
    let marked = |line: &str| {
        let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '!' || c == '_'));
        words.any(|word| REMINDERS.contains(&word))
    };
    if is_written_by_tool(file) {
        return Vec::new();
    }
    lines_with(&file.text, marked).map(|line| Violation::new(&file.path, line, "marks open work")).collect()
}

/// Paths of one machine, and hosts of package registries.
pub(crate) fn places(file: &File) -> Vec<Violation> {
    if is_written_by_tool(file) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for place in PLACES {
        let line_number = lines_with(&file.text, |line| line.contains(place));
        found.extend(line_number.map(|line| Violation::new(&file.path, line, format!("names `{place}`"))));
    }
    found
}

fn is_written_by_tool(file: &File) -> bool {
    WRITTEN_BY_TOOLS.contains(&file.path.as_str()) || file.path.ends_with("go.sum")
}

fn lines_with(text: &str, matches: impl Fn(&str) -> bool) -> impl Iterator<Item = usize> {
    text.lines().enumerate().filter(move |(_, line)| matches(line)).map(|(line_number, _)| line_number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> File {
        File { path: "a/src/b.rs".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn an_unwrap_counts_only_in_code() {
        let text =
            "/// x.unwrap()\nfn f() { x.unwrap(); }\n#[cfg(test)]\nmod tests { fn g() { x.unwrap() } }\n";
        assert_eq!(unwraps(&file(text)), [Violation::new("a/src/b.rs", 2, "unwraps")]);
    }

    #[test]
    fn an_ignored_test_needs_its_reason() {
        let text = "#[ignore = \"needs an hour\"]\nfn a() {}\n#[ignore]\nfn b() {}\n";
        assert_eq!(silent_ignores(&file(text)).len(), 1);
    }

    #[test]
    fn marks_count_as_whole_words() {
        for mark in REMINDERS {
            assert_eq!(reminders(&file(&format!("// {mark}: later\n"))).len(), 1, "{mark}");
        }
        assert_eq!(reminders(&file("// a photo and a mastodont\n")), []);
    }

    #[test]
    fn machines_and_registries_are_found_and_lock_files_are_free() {
        for place in PLACES {
            assert_eq!(places(&file(&format!("// {place}x\n"))).len(), 1, "{place}");
        }
        let lock = File { path: "Cargo.lock".to_owned(), text: PLACES.concat() };
        assert_eq!(places(&lock), []);
    }
}
