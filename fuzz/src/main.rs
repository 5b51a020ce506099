//! Runs libFuzzer on the target `FUZZ_TARGET`. It first writes the target's
//! inputs into the folder `FUZZ_CORPUS`. `cargo xtask fuzz` starts it.
#![no_main]
#![allow(
    clippy::disallowed_methods,
    reason = "libFuzzer reads the command line, and this function replaces `main`"
)]

use std::{env, fs, path::Path, sync::OnceLock};

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let (name, folder) = (env::var("FUZZ_TARGET"), env::var("FUZZ_CORPUS"));
        let (name, folder) = (name.expect("FUZZ_TARGET"), folder.expect("FUZZ_CORPUS"));
        let _ = TARGET.set(fuzz::target(&name));
        for (n, input) in fuzz::corpus(&name).expect("the corpus can be read").iter().enumerate() {
            fs::write(Path::new(&folder).join(format!("seed-{n}")), input).expect("FUZZ_CORPUS can be written");
        }
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            target(data);
        }
    }
);
