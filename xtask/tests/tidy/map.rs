//! ARCHITECTURE.md's code map against the tree: it names every crate and every
//! top-level module of the library, and no path that does not exist.

use crate::{Violation, manifests, tree::Tree};

const FILE: &str = "ARCHITECTURE.md";
const HEADING: &str = "## Code map";
const LIBRARY: &str = "registry-client/src/";

/// The paths that the map lacks, and those that it names and that do not exist.
pub(crate) fn differences(tree: &Tree) -> Vec<Violation> {
    let Some(file) = tree.file(FILE) else { return vec![Violation::new(FILE, 0, "is missing")] };
    let named_paths = named_paths(&file.text);
    let missing = required_paths(tree)
        .into_iter()
        .filter(|path| !named_paths.iter().any(|(_, name)| name == path))
        .map(|path| Violation::new(FILE, 0, format!("`{path}` is not in the section `{HEADING}`")));
    let unknown = named_paths
        .iter()
        .filter(|(_, path)| !exists(tree, path))
        .map(|(line, path)| Violation::new(FILE, *line, format!("`{path}` does not exist")));
    missing.chain(unknown).collect()
}

/// The folders of crates and the files of the library's top-level modules.
fn required_paths(tree: &Tree) -> Vec<String> {
    let crates = manifests::crates(tree).into_iter().map(|folder| match folder.as_str() {
        "" => "proto/".to_owned(),
        folder => format!("{folder}/"),
    });
    let modules = tree.rust().filter(|file| {
        let inside = file.path.strip_prefix(LIBRARY);
        inside.is_some_and(|name| !name.contains('/') && name != "lib.rs")
    });
    crates.chain(modules.map(|file| file.path.clone())).collect()
}

/// The words in backticks in the section that contain a slash, with their
/// lines.
fn named_paths(text: &str) -> Vec<(usize, String)> {
    let section = text
        .lines()
        .enumerate()
        .skip_while(|(_, line)| line.trim_end() != HEADING)
        .take_while(|(_, line)| line.trim_end() == HEADING || !line.starts_with("## "));
    let mut found = Vec::new();
    for (at, line) in section {
        let quoted = line.split('`').skip(1).step_by(2).filter(|word| word.contains('/'));
        found.extend(quoted.map(|word| (at + 1, word.to_owned())));
    }
    found
}

fn exists(tree: &Tree, path: &str) -> bool {
    match path.strip_suffix('/') {
        Some(_) => tree.files.iter().any(|file| file.path.starts_with(path)),
        None => tree.file(path).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(map: &str) -> Tree {
        Tree::of(&[
            ("ARCHITECTURE.md", map),
            ("Cargo.toml", "members = [\".\", \"registry-client\"]"),
            ("proto/lib.rs", ""),
            ("registry-client/src/lib.rs", ""),
            ("registry-client/src/balance.rs", ""),
            ("registry-client/src/balance/random.rs", ""),
        ])
    }

    #[test]
    fn a_true_map_is_accepted() {
        let map = "# A\n`gone/`\n## Code map\n`proto/` `registry-client/`, `registry-client/src/balance.rs` \
                   and `Picker`\n## Then\n`gone/`\n";
        assert_eq!(differences(&tree(map)), []);
    }

    #[test]
    fn a_missing_module_and_an_unknown_path_are_reported() {
        let map = "## Code map\n- `proto/`, `registry-client/`\n- `registry-client/src/gone.rs`\n";
        let found: Vec<String> = differences(&tree(map)).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "ARCHITECTURE.md: `registry-client/src/balance.rs` is not in the section `## Code map`",
                "ARCHITECTURE.md:3: `registry-client/src/gone.rs` does not exist",
            ]
        );
    }

    #[test]
    fn a_missing_map_is_reported() {
        assert_eq!(differences(&Tree::of(&[])), [Violation::new("ARCHITECTURE.md", 0, "is missing")]);
    }
}
