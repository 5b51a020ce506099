//! The tutorial of the book, pasted line by line.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use crate::running::{RunningMesh, State, memory, port_base, tool};

/// The limit on the memory of the whole shop, in MiB.
const MAX_MEMORY_MIB: u64 = 250;

/// A fenced block.
struct Block {
    language: String,
    text: String,
}

/// The fenced blocks of the tutorial's section of that name.
fn blocks(section: &str) -> Vec<Block> {
    let tutorial =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/src/tutorial.md")).unwrap();
    let heading = format!("## {section}");
    let section = tutorial.lines().skip_while(|line| *line != heading).skip(1);
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for line in section.take_while(|line| !line.starts_with("## ")) {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(language) => {
                open = true;
                blocks.push(Block { language: language.to_owned(), text: String::new() });
            }
            None if open => blocks.last_mut().unwrap().text += &format!("{line}\n"),
            None => {}
        }
    }
    blocks
}

#[test]
fn the_tutorial_works_when_pasted_and_takes_little_memory() {
    let blocks = blocks("Place an order");
    let pasted: Vec<_> = blocks.iter().filter(|block| block.language == "sh").collect();
    assert!(pasted.len() > 5, "the tutorial has lost its commands");

    let (state, base) = (State::new(), port_base());
    let up = RunningMesh::start(&state.dir(), base, &["--registry", "embedded", "--auth"]);
    let printed = paste(&state, base, &pasted);
    let mut sections = printed.split(MARK).skip(1);
    let mut output = "";
    for Block { language, text } in &blocks {
        if language == "sh" {
            output = sections.next().unwrap_or_else(|| panic!("it ended before\n{text}\n{printed}"));
            continue;
        }
        // The lines shown are in the output, in that order; … stands for text
        // that varies.
        let mut rest = output;
        for shown in text.lines().map(str::trim_end).filter(|line| !line.contains('…')) {
            let found = rest.find(shown);
            let found = found.unwrap_or_else(|| panic!("no `{shown}` in\n{output}"));
            rest = &rest[found + shown.len()..];
        }
    }

    // Every service has been used now.
    let used = memory(&up.processes(&state.all_passing()));
    eprintln!("the whole shop takes {used} MiB");
    assert!(used <= MAX_MEMORY_MIB, "{used} MiB");
}

/// The separator between the outputs of two blocks.
const MARK: &str = "---- pasted ----\n";

/// The output of one shell that the blocks are pasted into.
fn paste(state: &State, base: u16, blocks: &[&Block]) -> String {
    let script: String = blocks.iter().map(|block| format!("printf -- '{MARK}'\n{}", block.text)).collect();
    let script = script.replace(MARK, &MARK.replace('\n', "\\n"));
    // A process that it leaves running would block the test.
    let script = format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}");
    let places = [tool("grpcurl").parent().unwrap().to_owned()];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(places.into_iter().chain(std::env::split_paths(&path))).unwrap();
    let mut shell = Command::new("timeout");
    shell.args(["90", "sh", "-e"]).env("PATH", path).env("STATE", state.dir());
    for (name, offset) in [("CARTS", 10), ("ORDERS", 20), ("PRODUCTS", 30), ("USERS", 50)] {
        shell.env(name, format!("127.0.0.1:{}", base + offset));
    }
    let mut shell =
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = shell.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}:\n{out}\n{err}", output.status);
    out.into_owned()
}
