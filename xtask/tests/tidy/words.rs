//! Words that were replaced in the whole tree and must not come back.

use crate::{Violation, tree::File};

/// Each word with its replacement, split by `concat!`, so that this file does
/// not contain the word. Case matters, and `_` separates words.
const REPLACED: [(&str, &str); 25] = [
    (concat!("PATI", "ENCE"), "…_TIMEOUT"),
    (concat!("MO", "ST"), "MAX_…"),
    (concat!("PAU", "SE"), "…_INTERVAL or …_DELAY"),
    (concat!("LO", "OK"), "…_INTERVAL"),
    (concat!("GLA", "NCE"), "…_INTERVAL"),
    (concat!("FARE", "WELL"), "DEREGISTER_TIMEOUT"),
    (concat!("Be", "at"), "Heartbeat"),
    (concat!("Beli", "ever"), "TrustingResolver"),
    (concat!("Cle", "rk"), "GroupCommitter"),
    (concat!("De", "sk"), "WriterConnection"),
    (concat!("Ins", "ide"), "ServerHandle"),
    (concat!("Jud", "ged"), "Sweep"),
    (concat!("La", "nes"), "Connections"),
    (concat!("Li", "ar"), "FakeRegistry"),
    (concat!("Stan", "ding"), "EjectionState"),
    (concat!("Suff", "ered"), "a noun, such as VictimReport"),
    (concat!("Wis", "hes"), "DesiredState"),
    (concat!("he", "ar"), "receive or read"),
    (concat!("he", "ard"), "received or read"),
    (concat!("hur", "ry"), "reset_backoff"),
    (concat!("me", "nd"), "repair"),
    (concat!("men", "ded"), "repaired"),
    (concat!("roo", "my"), "least_loaded"),
    (concat!("th", "aw"), "end of catalog_stale"),
    (concat!("to", "ld"), "notified or reported"),
];

/// The replaced words in a file's code, comments and prose.
pub(crate) fn replaced(file: &File) -> Vec<Violation> {
    let covered = [".rs", ".md"].iter().any(|extension| file.path.ends_with(extension));
    let lines = file.text.lines().enumerate().filter(|_| covered);
    lines.flat_map(|(index, line)| violations(file, index + 1, line)).collect()
}

fn violations(file: &File, number: usize, line: &str) -> impl Iterator<Item = Violation> {
    let words = line.split(|c: char| !c.is_alphanumeric());
    let found = words.filter_map(|word| REPLACED.iter().find(|(replaced, _)| *replaced == word));
    found.map(move |(word, instead)| {
        Violation::new(&file.path, number, format!("has the word `{word}`; write {instead}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: String) -> File {
        File { path: path.to_owned(), text }
    }

    #[test]
    fn a_replaced_word_is_found_with_its_line_and_its_replacement() {
        for (word, instead) in REPLACED {
            let found = replaced(&file("mesh/src/a.rs", format!("// fine\nlet a_{word}; // {word}s\n")));
            let problem = format!("has the word `{word}`; write {instead}");
            assert_eq!(found, [Violation::new("mesh/src/a.rs", 2, problem)]);
        }
    }

    #[test]
    fn other_words_and_files_are_ignored() {
        let (word, _) = REPLACED[0];
        assert_eq!(replaced(&file("mesh/src/a.rs", word.to_lowercase())), []);
        assert_eq!(replaced(&file("mesh/a.json", word.to_owned())), []);
    }
}
