//! The modules of the library that a module may name: paths are read from `use`
//! items and from the code, and resolved as far as a rule needs it.

use crate::{Violation, code, tree::Tree};

const SOURCE: &str = "registry-client/src/";

/// A rule: the modules and crates that some modules of the library must not
/// name.
pub(crate) struct Rule {
    /// Top-level modules, with everything below them.
    pub(crate) modules: &'static [&'static str],
    /// Top-level modules of the library that they must not name.
    pub(crate) not_modules: &'static [&'static str],
    /// Crates that they must not name, `hyper` standing for `hyper_util` too.
    pub(crate) not_crates: &'static [&'static str],
    pub(crate) why: &'static str,
}

/// The rule for `consul`.
pub(crate) const CONSUL: Rule = Rule {
    modules: &["consul"],
    not_modules: &["channel"],
    not_crates: &["tonic", "h2"],
    why: "`consul` speaks HTTP to Consul, does not use gRPC, \
          and shares only `resolve` with `channel`",
};

/// The rule for `channel`.
pub(crate) const CHANNEL: Rule = Rule {
    modules: &["channel"],
    not_modules: &["consul"],
    not_crates: &[],
    why: "a channel works with any resolver; one that uses `consul` would work with Consul only",
};

/// The rule for the modules that decide about a call.
pub(crate) const CORE: Rule = Rule {
    modules: &["balance", "health", "policy", "route"],
    not_modules: &[],
    not_crates: &["tonic", "hyper", "h2"],
    why: "picking, health, policy and routing do not depend on the transport: tonic will be \
          replaced, and only `channel` and `server` adapt to it",
};

/// Every violation of the rule. A rule without any existing module is a
/// violation too, so that a renamed module does not escape it.
pub(crate) fn violations(rule: &Rule, tree: &Tree) -> Vec<Violation> {
    let exports = exports(tree);
    let mut found = Vec::new();
    let mut files = 0;
    for file in tree.rust() {
        let Some(module) = file.path.strip_prefix(SOURCE).map(module_path) else { continue };
        if !module.first().is_some_and(|top| rule.modules.contains(top)) {
            continue;
        }
        files += 1;
        for (line, path) in paths(&code::without_tests(&code::blank(&file.text))) {
            if let Some(what) = forbidden(rule, &exports, &module, &path) {
                found.push(Violation::new(&file.path, line, format!("`{}` names {what}", path.join("::"))));
            }
        }
    }
    if files == 0 {
        found.push(Violation::new(SOURCE, 0, format!("has none of the modules {:?}", rule.modules)));
    }
    found
}

/// The module or crate in this path that the rule forbids, for the message.
fn forbidden(rule: &Rule, exports: &[(String, String)], module: &[&str], path: &[String]) -> Option<String> {
    if let Some(inner) = resolve(module, path) {
        let first = inner.first()?;
        let exported = exports.iter().find(|(name, _)| name == first).map(|(_, module)| module);
        let top = exported.unwrap_or(first);
        return rule.not_modules.contains(&top.as_str()).then(|| format!("the module `{top}`"));
    }
    let root = path.first()?;
    let same = |name: &&&str| root == **name || root.strip_prefix(**name).is_some_and(|r| r.starts_with('_'));
    rule.not_crates.iter().find(same).map(|_| format!("the crate `{root}`"))
}

/// A path from the crate's root; `None` for one that does not begin with
/// `crate`, `self` or `super`.
fn resolve(module: &[&str], path: &[String]) -> Option<Vec<String>> {
    let mut at: Vec<String> = module.iter().map(|&part| part.to_owned()).collect();
    let rest = match path.first()?.as_str() {
        "crate" => {
            at.clear();
            &path[1..]
        }
        "self" => &path[1..],
        "super" => {
            let ups = path.iter().take_while(|part| *part == "super").count();
            at.truncate(at.len().saturating_sub(ups));
            &path[ups..]
        }
        _ => return None,
    };
    at.extend_from_slice(rest);
    Some(at)
}

/// `consul/watch.rs` is `consul::watch`.
fn module_path(file: &str) -> Vec<&str> {
    file.trim_end_matches(".rs").split('/').collect()
}

/// The names that the library's root exports from its modules.
fn exports(tree: &Tree) -> Vec<(String, String)> {
    let Some(root) = tree.file("registry-client/src/lib.rs") else { return Vec::new() };
    paths(&code::blank(&root.text))
        .into_iter()
        .map(|(_, path)| path)
        .map(|path| if path.first().is_some_and(|p| p == "crate") { path[1..].to_vec() } else { path })
        .filter(|path| path.len() > 1)
        .filter_map(|path| Some((path.last()?.clone(), path.first()?.clone())))
        .collect()
}

/// Every path in blanked code with its line; groups in `use` items are
/// expanded. One-word names count only in `use`.
fn paths(code: &str) -> Vec<(usize, Vec<String>)> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let (line, token) = tokens[at];
        if token == "use" {
            at = expand(&tokens, at + 1, &[], &mut found);
        } else if is_word(token) {
            let mut path = vec![token.to_owned()];
            while tokens.get(at + 1).is_some_and(|t| t.1 == "::")
                && tokens.get(at + 2).is_some_and(|t| is_word(t.1))
            {
                path.push(tokens[at + 2].1.to_owned());
                at += 2;
            }
            if path.len() > 1 {
                found.push((line, path));
            }
        }
        at += 1;
    }
    found
}

/// Reads one use tree, from behind `use`, `{` or `,` to its end; returns the index of
/// its end.
fn expand(
    tokens: &[(usize, &str)],
    mut at: usize,
    prefix: &[String],
    found: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let mut path = prefix.to_vec();
    while let Some(&(line, token)) = tokens.get(at) {
        match token {
            "{" => {
                loop {
                    at = expand(tokens, at + 1, &path, found);
                    if tokens.get(at).is_none_or(|t| t.1 != ",") {
                        break;
                    }
                }
                // The group's own brace; its paths are spread already.
                return at + 1;
            }
            "as" => at += 1,
            "," | "}" | ";" => {
                if path.len() > prefix.len() {
                    found.push((line, path));
                }
                return at;
            }
            // `a::{self}` is `a`.
            "self" if !path.is_empty() => found.push((line, path.clone())),
            word if is_word(word) => path.push(word.to_owned()),
            _ => {}
        }
        at += 1;
    }
    at
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words, `::` and single other characters, each with its line.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while !rest.is_empty() {
            let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            let length = match word {
                0 if rest.starts_with("::") => 2,
                0 => rest.chars().next().map_or(1, char::len_utf8),
                length => length,
            };
            found.push((number + 1, &rest[..length]));
            rest = rest[length..].trim_start();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: [Rule; 3] = [CONSUL, CHANNEL, CORE];

    /// The messages of the rules for one file of the library.
    fn messages(path: &str, text: &str) -> Vec<String> {
        let root = "mod channel;\nmod consul;\npub use channel::{Channel, config::ChannelConfig};\n";
        let others = [("consul", "consul.rs"), ("channel", "channel.rs"), ("balance", "balance.rs")];
        let mut files =
            vec![("registry-client/src/lib.rs".to_owned(), root), (format!("{SOURCE}{path}"), text)];
        files.extend(others.iter().map(|(_, file)| (format!("{SOURCE}{file}"), "")));
        let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let tree = Tree::of(&files);
        RULES.iter().flat_map(|rule| violations(rule, &tree)).map(|violation| violation.to_string()).collect()
    }

    #[test]
    fn consul_importing_channel_is_found_in_every_spelling() {
        for text in [
            "use crate::channel::Channel;",
            "use crate::{instance::Instance, channel::{self}};",
            "use super::super::channel::pool;",
            "use crate::Channel;",
            "use crate::{resolve, ChannelConfig as Settings};",
            "fn f() -> crate::channel::Channel { todo!() }",
        ] {
            let found = messages("consul/watch.rs", text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].contains("consul/watch.rs:1:"), "{found:?}");
            assert!(found[0].ends_with("names the module `channel`"), "{found:?}");
        }
    }

    #[test]
    fn consul_importing_tonic_or_h2_is_found() {
        for text in ["use tonic::Status;", "fn f(e: h2::Error) {}", "use tonic_health::pb;", "use tonic;"] {
            assert_eq!(messages("consul.rs", text).len(), 1, "{text}");
        }
        assert_eq!(messages("consul.rs", "use hyper::Request;\nuse hyper_util::rt::TokioIo;"), [""; 0]);
    }

    #[test]
    fn channel_importing_consul_is_found() {
        assert_eq!(messages("channel/pool.rs", "use crate::consul::Client;").len(), 1);
        assert_eq!(messages("channel/pool.rs", "use tonic::Status;\nuse h2::client;"), [""; 0]);
    }

    #[test]
    fn balance_importing_tonic_is_found_on_its_line() {
        let text = "//! Picks.\n\nuse std::sync::Arc;\n\nuse tonic::{Code, Status};\n";
        let found = messages("balance/random.rs", text);
        assert_eq!(found.len(), 2, "{found:?}");
        let line = "registry-client/src/balance/random.rs:5: `tonic::Code` names the crate `tonic`";
        assert_eq!(found[0], line);
    }

    #[test]
    fn comments_strings_tests_and_lookalikes_are_free() {
        let text = "//! Unlike tonic::Status.\nlet a = \"h2::x\"; let tonic = hyperbole::x();\n\
                    #[cfg(test)]\nmod tests { use tonic::Status; }\n";
        assert_eq!(messages("policy/retry.rs", text), [""; 0]);
    }

    #[test]
    fn a_rule_without_a_module_left_is_broken() {
        let tree = Tree::of(&[("registry-client/src/lib.rs", "")]);
        assert!(RULES.iter().all(|rule| violations(rule, &tree).len() == 1));
    }
}
