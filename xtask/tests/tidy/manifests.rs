//! The workspace's crates, as its manifests list them.

use crate::{Violation, tree::Tree};

/// The folders of the workspace's crates; the root is the empty one.
pub(crate) fn crates(tree: &Tree) -> Vec<String> {
    let root = tree.file("Cargo.toml").map_or("", |file| file.text.as_str());
    let list = root.split_once("members = [").and_then(|(_, rest)| rest.split_once(']'));
    list.map_or("", |(list, _)| list)
        .split(',')
        .map(|member| member.trim().trim_matches('"').trim_start_matches('.').to_owned())
        .filter(|member| !member.is_empty())
        .chain([String::new()])
        .collect()
}

/// The crates without the workspace's lints.
pub(crate) fn without_lints(tree: &Tree) -> Vec<Violation> {
    let manifest =
        |folder: String| if folder.is_empty() { folder } else { format!("{folder}/") } + "Cargo.toml";
    let lacks_lints = |path: &String| {
        let lines: Vec<&str> = tree.file(path).map_or("", |file| &file.text).lines().map(str::trim).collect();
        !lines.windows(2).any(|pair| pair == ["[lints]", "workspace = true"])
    };
    let paths = crates(tree).into_iter().map(manifest).filter(lacks_lints);
    paths.map(|path| Violation::new(&path, 0, "has no `[lints]` with `workspace = true`")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_without_lints_is_found() {
        let tree = Tree::of(&[
            ("Cargo.toml", "members = [\n    \".\",\n    \"a\",\n    \"b\",\n]\n[lints]\nworkspace = true\n"),
            ("a/Cargo.toml", "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"),
            ("b/Cargo.toml", "[package]\nname = \"b\"\n"),
        ]);
        assert_eq!(crates(&tree), ["a", "b", ""]);
        let found: Vec<_> = without_lints(&tree).into_iter().map(|violation| violation.file).collect();
        assert_eq!(found, ["b/Cargo.toml"]);
    }
}
