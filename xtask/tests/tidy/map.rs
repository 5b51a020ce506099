//! ARCHITECTURE.md's code map against the tree: every crate and every module
//! at the library's top is in it, and nothing that does not exist.

use crate::{Violation, manifests, tree::Tree};

const FILE: &str = "ARCHITECTURE.md";
const HEADING: &str = "## Code map";
const LIBRARY: &str = "registry-client/src/";

/// What the map lacks, and what it names that is not there.
pub(crate) fn untrue(tree: &Tree) -> Vec<Violation> {
    let Some(file) = tree.file(FILE) else { return vec![Violation::new(FILE, 0, "is missing")] };
    let named = named(&file.text);
    let lacking = wanted(tree)
        .into_iter()
        .filter(|path| !named.iter().any(|(_, name)| name == path))
        .map(|path| Violation::new(FILE, 0, format!("`{path}` is not in the section `{HEADING}`")));
    let invented = named
        .iter()
        .filter(|(_, path)| !exists(tree, path))
        .map(|(line, path)| Violation::new(FILE, *line, format!("`{path}` does not exist")));
    lacking.chain(invented).collect()
}

/// The folders of crates and the files of the library's top-level modules.
fn wanted(tree: &Tree) -> Vec<String> {
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

/// What stands in backticks in the section and has a slash, with its line.
fn named(text: &str) -> Vec<(usize, String)> {
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
        assert_eq!(untrue(&tree(map)), []);
    }

    #[test]
    fn a_missing_module_and_an_invented_path_are_told() {
        let map = "## Code map\n- `proto/`, `registry-client/`\n- `registry-client/src/gone.rs`\n";
        let found: Vec<String> = untrue(&tree(map)).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "ARCHITECTURE.md: `registry-client/src/balance.rs` is not in the section `## Code map`",
                "ARCHITECTURE.md:3: `registry-client/src/gone.rs` does not exist",
            ]
        );
    }

    #[test]
    fn no_map_at_all_is_told() {
        assert_eq!(untrue(&Tree::of(&[])), [Violation::new("ARCHITECTURE.md", 0, "is missing")]);
    }
}
