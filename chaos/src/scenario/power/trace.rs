//! The disk writes and network sends of a process, in the order of strace's
//! log.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// The command prefix that writes a program's system calls to `log`. The
/// program stays a child of its starter; strace is detached.
pub(super) fn command(log: &str) -> Vec<&str> {
    let calls = "trace=openat,pwrite64,ftruncate,fsync,fdatasync,unlink,sendto,sendmsg,writev";
    vec!["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-yy", "-xx", "-s", "1000000", "-e", calls, "-o", log]
}

/// One system call, or half of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A file was opened, and made if it was not there.
    Opened(PathBuf),
    Removed(PathBuf),
    Wrote {
        path: PathBuf,
        at: usize,
        bytes: Vec<u8>,
    },
    Truncated {
        path: PathBuf,
        length: usize,
    },
    /// A sync has started; once it is done, all earlier writes are durable.
    SyncBegun {
        thread: u32,
        path: PathBuf,
    },
    Synced {
        thread: u32,
        path: PathBuf,
    },
    /// Bytes were sent to a peer.
    Sent {
        /// The socket in the form `[local->remote]`.
        socket: String,
        bytes: Vec<u8>,
    },
}

/// Reads a log, line by line.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The calls that have started and not finished, by thread.
    unfinished: HashMap<u32, String>,
}

impl Reader {
    /// The events of a line; none for a failed call.
    pub(super) fn read(&mut self, line: &str) -> Vec<Event> {
        let Some((thread, call)) = line.split_once(char::is_whitespace) else { return Vec::new() };
        let (Ok(thread), call) = (thread.parse(), call.trim()) else { return Vec::new() };
        if let Some(unfinished) = call.strip_suffix("<unfinished ...>") {
            self.unfinished.insert(thread, unfinished.trim_end().to_owned());
            return started(thread, unfinished).into_iter().collect();
        }
        if call.starts_with("<... ") {
            let Some((_, rest)) = call.split_once(" resumed>") else { return Vec::new() };
            let unfinished = self.unfinished.remove(&thread).unwrap_or_default();
            return finished(thread, &format!("{unfinished}{rest}")).into_iter().collect();
        }
        started(thread, call).into_iter().chain(finished(thread, call)).collect()
    }
}

/// The event at the start of a call.
fn started(thread: u32, call: &str) -> Option<Event> {
    let (name, args) = call.split_once('(')?;
    match name {
        "fsync" | "fdatasync" => Some(Event::SyncBegun { thread, path: file(args)? }),
        "sendto" | "sendmsg" | "writev" => {
            let socket = args.split_once("<TCP:")?.1.split_once('>')?;
            // An arrow is within the brackets.
            let (remote, rest) = socket.1.split_once('>')?;
            let bytes = strings(rest).concat();
            Some(Event::Sent { socket: format!("{}>{remote}", socket.0), bytes })
        }
        _ => None,
    }
}

/// The event once a call has succeeded.
fn finished(thread: u32, call: &str) -> Option<Event> {
    let (call, result) = call.rsplit_once(" = ")?;
    if result.starts_with('-') || result.starts_with('?') {
        return None;
    }
    let (name, args) = call.split_once('(')?;
    match name {
        "openat" if args.contains("O_CREAT") => path(args).map(Event::Opened),
        "unlink" => path(args).map(Event::Removed),
        "pwrite64" => {
            let wrote: usize = result.trim().parse().ok()?;
            let mut bytes = strings(args).into_iter().next()?;
            bytes.truncate(wrote);
            Some(Event::Wrote { path: file(args)?, at: last_number(args)?, bytes })
        }
        "ftruncate" => Some(Event::Truncated { path: file(args)?, length: last_number(args)? }),
        "fsync" | "fdatasync" => Some(Event::Synced { thread, path: file(args)? }),
        _ => None,
    }
}

/// The file of the first descriptor.
fn file(args: &str) -> Option<PathBuf> {
    let path = args.split_once('<')?.1.split_once('>')?.0;
    Some(PathBuf::from(String::from_utf8(unescaped(path)).ok()?))
}

/// The quoted path; all paths of interest are absolute.
fn path(args: &str) -> Option<PathBuf> {
    let path = strings(args).into_iter().next()?;
    Some(Path::new(std::str::from_utf8(&path).ok()?).to_owned())
}

fn last_number(args: &str) -> Option<usize> {
    args.rsplit_once(", ")?.1.trim_end_matches([')', ' ']).parse().ok()
}

/// The quoted strings; escaped bytes contain no quotation marks.
fn strings(args: &str) -> Vec<Vec<u8>> {
    args.split('"').skip(1).step_by(2).map(unescaped).collect()
}

/// Decodes bytes in the format of `-xx`, each as `\x` and two digits.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4);
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [] => return bytes,
            [b'\\', b'x', high, low, rest @ ..] => {
                bytes.push(digit(*high) << 4 | digit(*low));
                rest
            }
            [byte, rest @ ..] => {
                bytes.push(*byte);
                rest
            }
        };
    }
}

fn digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Vec<Event> {
        let mut reader = Reader::default();
        lines.iter().flat_map(|line| reader.read(line)).collect()
    }

    #[test]
    fn calls_are_read_with_their_bytes() {
        let (a, b) = (PathBuf::from("/a"), PathBuf::from("/b"));
        let lines = [
            r#"7  openat(AT_FDCWD<\x2f>, "\x2f\x61", O_RDWR|O_CREAT, 0644) = 3<\x2f\x61>"#,
            r#"7  pwrite64(3<\x2f\x61>, "\x22\x00\xff", 3, 4096) = 2"#,
            r"7  ftruncate(3<\x2f\x61>, 12) = 0",
            r#"7  unlink("\x2f\x62") = 0"#,
            r#"7  sendto(8<TCP:[127.0.0.1:1->127.0.0.1:2]>, "\x68", 1, 0, NULL, 0) = 1"#,
            r#"7  writev(8<TCP:[127.0.0.1:1->127.0.0.1:2]>, [{iov_base="\x68", iov_len=1}, {iov_base="\x69", iov_len=1}], 2) = 2"#,
        ];
        let sent =
            |bytes: &[u8]| Event::Sent { socket: "[127.0.0.1:1->127.0.0.1:2]".into(), bytes: bytes.to_vec() };
        let expected = vec![
            Event::Opened(a.clone()),
            Event::Wrote { path: a.clone(), at: 4096, bytes: vec![0x22, 0] },
            Event::Truncated { path: a, length: 12 },
            Event::Removed(b),
            sent(b"h"),
            sent(b"hi"),
        ];
        assert_eq!(read(&lines), expected);
    }

    #[test]
    fn a_sync_covers_what_came_before_it_began_and_counts_once_it_is_done() {
        let path = PathBuf::from("/a");
        let lines = [
            r"7  fdatasync(3<\x2f\x61> <unfinished ...>",
            r#"8  pwrite64(3<\x2f\x61>, "\x01", 1, 0 <unfinished ...>"#,
            r"7  <... fdatasync resumed>) = 0",
            r"8  <... pwrite64 resumed>) = 1",
        ];
        let expected = vec![
            Event::SyncBegun { thread: 7, path: path.clone() },
            Event::Synced { thread: 7, path: path.clone() },
            Event::Wrote { path, at: 0, bytes: vec![1] },
        ];
        assert_eq!(read(&lines), expected);
    }

    #[test]
    fn what_failed_did_not_happen() {
        let lines = [
            r#"7  pwrite64(3<\x2f\x61>, "\x01", 1, 0) = -1 ENOSPC (No space left on device)"#,
            r"7  +++ exited with 0 +++",
            r#"7  unlink("\x2f\x62") = ? <unavailable>"#,
        ];
        assert_eq!(read(&lines), []);
    }
}
