//! A registry that answers garbage, in every way we could think of and some
//! from random mutations: R16, and the rate of queries meanwhile.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use registry_client::{
    consul::{Client, ConsulResolver},
    resolve::Resolver,
};
use tokio::time::{sleep, timeout};

use crate::consul::{
    agents::{TEST_TIMEOUT, eventually},
    faults::{entry, list, ports, resolve, until},
    liar::{FakeRegistry, Reply, Request},
};

/// What a liar says instead of the truth.
#[derive(Clone, Debug)]
enum Garbage {
    /// A response of the blocking backend with this index and body.
    Body(String, String),
    Status(u16, String),
    Bytes(Vec<u8>),
}

impl Garbage {
    fn reply(&self) -> Reply {
        match self.clone() {
            Self::Body(index, body) => {
                let headers = vec![("X-Consul-Index", index), ("X-Consul-Knownleader", "true".to_owned())];
                Reply::Http(200, headers, body)
            }
            Self::Status(status, body) => Reply::plain(status, &body),
            Self::Bytes(bytes) => Reply::Raw(bytes),
        }
    }
}

/// More than 200 of them, the same ones each time.
fn all() -> Vec<Garbage> {
    let good = list(&["5001", "5003"]);
    let body = |body: String| Garbage::Body("9".to_owned(), body);
    let mut all: Vec<Garbage> = (0..40).map(|i| body(good[..good.len() * i / 40].to_owned())).collect();
    let whole =
        ["null", "{}", "0", "\"[]\"", "true", "[null]", "[[]]", "[{}]", "[0]", "[{\"Service\":null}]"];
    all.extend(whole.map(|text| body(text.to_owned())));
    all.push(body("<html><h1>It works!</h1></html>".to_owned()));
    all.push(body("[".repeat(200_000)));
    all.push(body("{\"a\":".repeat(100_000)));
    all.push(body("\u{feff}".to_owned() + &good));
    all.push(body(list(&["5001"; 2_000])));
    let ports = ["0", "-1", "70000", "1e400", "null", "\"5001\"", "[]", "18446744073709551616", "0.5", "--1"];
    all.extend(ports.map(|port| body(list(&[port]))));
    let indexes = ["0", "-1", "abc", "", "18446744073709551616", "1", "9, 9", "0x10"];
    all.extend(indexes.map(|index| Garbage::Body(index.to_owned(), "[{".to_owned())));
    // Without those that only an operator can fix: such a watch waits for half
    // a minute.
    for status in [204, 206, 300, 301, 302, 307, 404, 429, 500, 501, 502] {
        all.push(Garbage::Status(status, "no".to_owned()));
        all.push(Garbage::Status(status, good.clone()[..20].to_owned()));
    }
    let heads = [
        "HTTP/1.1 200",
        "HTTP/9.9 200 OK\r\n\r\n",
        "HTTP/1.1 999 X\r\n\r\n",
        "\r\n\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
    ];
    all.extend(heads.map(|head| Garbage::Bytes(head.into())));
    all.push(Garbage::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n[]".to_vec()));
    all.push(Garbage::Bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n".to_vec()));
    all.push(Garbage::Bytes(format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(1 << 20)).into_bytes()));
    let mut random = fastrand::Rng::with_seed(16);
    all.extend((0..30).map(|_| Garbage::Bytes((0..random.usize(1..400)).map(|_| random.u8(..)).collect())));
    all.extend((0..80).map(|_| {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        body(String::from_utf8_lossy(&bytes).into_owned())
    }));
    all
}

/// Good, then garbage until it was reported, then good again. Returns whether
/// the garbage was refused.
async fn survives(garbage: Garbage) -> bool {
    let repaired = Arc::new(AtomicBool::new(false));
    let (is_repaired, lie) = (Arc::clone(&repaired), garbage.clone());
    let liar =
        FakeRegistry::start(move |request: &Request| match (request.turn, is_repaired.load(Relaxed)) {
            (0, _) => Reply::good(5, &list(&["5001", "5003"])),
            (_, false) => lie.reply(),
            (_, true) if request.target.contains("index=77&") => Reply::Hang,
            (_, true) => Reply::good(77, &list(&["5001", "5002", "5003"])),
        })
        .await;
    let mut view = resolve(&liar.client());
    until(&mut view, |now| now.instances.is_some()).await;
    eventually("it has received the garbage", || async {
        view.borrow().error.is_some() || liar.seen().len() > 3
    })
    .await;
    let now = view.borrow().clone();
    let refused = now.error.is_some();
    if let Some(error) = &now.error {
        // Garbage that can be read in part may have been believed before.
        assert!(error.len() < 1_000 && !error.contains('\n'), "{garbage:?}: {error}");
        assert!(!ports(&now).is_empty(), "the last good set is kept: {garbage:?}");
    }
    repaired.store(true, Relaxed);
    let healed =
        timeout(TEST_TIMEOUT, view.wait_for(|now| now.error.is_none() && ports(now).contains(&5002))).await;
    let healed = healed.unwrap_or_else(|_| panic!("it does not heal after {garbage:?}")).unwrap().clone();
    assert_eq!(ports(&healed), [5001, 5002, 5003], "{garbage:?}");
    refused
}

#[tokio::test]
async fn no_garbage_panics_loses_the_set_or_outlasts_itself() {
    let all = all();
    let number = all.len();
    assert!(number >= 200, "{number} kinds");
    let refused =
        stream::iter(all).map(survives).buffer_unordered(40).filter(|refused| std::future::ready(*refused));
    let refused = refused.count().await;
    println!("{refused} of {number} kinds of garbage were refused, the others read");
    assert!(refused > 150, "only {refused} of {number} were refused");
}

/// An empty response of the streaming backend.
fn streaming(index: u64) -> Reply {
    let headers = [("X-Consul-Index", index.to_string()), ("X-Consul-Query-Backend", "streaming".to_owned())];
    Reply::Http(200, headers.to_vec(), "[]".to_owned())
}

#[tokio::test]
async fn no_lie_makes_a_watch_ask_more_than_twice_a_second() {
    type Lie = fn(&Request) -> Reply;
    let lies: [(&str, Lie); 13] = [
        ("it does not wait", |r| Reply::good(r.turn as u64 + 2, &list(&["5001"]))),
        ("always another set", |r| Reply::good(r.turn as u64 + 2, &list(&[["5001", "5002"][r.turn % 2]]))),
        ("the index goes backwards", |r| Reply::good(1_000 - r.turn as u64, &list(&["5001"]))),
        ("the index is 0", |_| Reply::good(0, &list(&["5001"]))),
        ("always empty", |r| Reply::good(r.turn as u64 + 2, "[]")),
        ("no index", |_| Reply::plain(200, "[]")),
        ("a stream that is none", |_| streaming(1)),
        ("a stream that loses and a truth that does not", |r| match r.blocks() {
            false => Reply::good(r.turn as u64 + 2, &list(&["5001"])),
            true => streaming(9_000),
        }),
        ("html", |_| Reply::good(5, "<html>")),
        ("500", |_| Reply::plain(500, "No cluster leader")),
        ("429", |_| Reply::plain(429, "too many")),
        ("403", |_| Reply::plain(403, "ACL not found")),
        ("it closes", |_| Reply::Close),
    ];
    let mut watched = Vec::new();
    for (words, lie) in lies {
        let liar = FakeRegistry::start(lie).await;
        let view = resolve(&liar.client());
        watched.push((words, liar, view));
    }
    let start = Instant::now();
    sleep(Duration::from_secs(10)).await;
    for (words, liar, _view) in &watched {
        let (requests, max) = (liar.seen().len(), start.elapsed().as_secs_f64() * 2.0 + 2.0);
        println!("{words}: {requests} in {:?}", start.elapsed());
        assert!(requests as f64 <= max, "{words}: {requests} questions, {max} may be");
        assert!(requests > 0, "{words}");
    }
}

/// The memory figure of R16, of a process of its own.
const MAX_GROWTH: usize = 64 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_makes_a_process_grow_by_no_more_than_64_mib() {
    let small =
        |i: usize| format!(r#"{{"Node":{{}},"Service":{{"ID":"i{i}","Address":"10.0.0.1","Port":80}}}}"#);
    let many = |number: usize| format!("[{}]", (0..number).map(small).collect::<Vec<_>>().join(","));
    let hundred_thousand = many(100_000);
    // As large as is read: as many as are allowed, each with much to say.
    let meta = |i: usize| {
        entry(&format!("{}", 10_000 + i))
            .replace("\"Port\"", &format!(r#""Meta":{{"m":"{}"}},"Port""#, "x".repeat(250)))
    };
    let largest = format!("[{}]", (0..16_384).map(meta).collect::<Vec<_>>().join(","));
    let long = format!("[{}]", vec![entry("5009"); 100_000].join(","));
    let cut = hundred_thousand[..hundred_thousand.len() - 1].to_owned();
    let bodies = Arc::new([hundred_thousand, long, cut, "[".repeat(7 << 20), "[]".to_owned(), largest]);
    let sent = Arc::new(AtomicUsize::new(0));
    let (reported, sizes) = (Arc::clone(&sent), bodies.clone().each_ref().map(String::len));
    let liar = FakeRegistry::start(move |request| match request.turn {
        0 => Reply::good(5, &list(&["5001"])),
        turn if turn % 4 == 3 => Reply::Endless,
        turn => {
            let at = reported.fetch_add(1, Relaxed);
            Reply::good(turn as u64 + 9, &bodies[at % bodies.len()])
        }
    })
    .await;

    let addr = liar.addr.to_string();
    let child = tokio::task::spawn_blocking(move || {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "consul::garbage::child_that_follows_a_service", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "{addr}").unwrap();
        child
    });
    let mut child = child.await.unwrap();
    let condition = 2 * sizes.len();
    eventually("every body was sent twice", || async { sent.load(Relaxed) > condition }).await;
    drop(child.stdin.take());
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let growth = said.split_once("grew by ").and_then(|(_, rest)| rest.split_whitespace().next());
    assert!(child.wait().unwrap().success(), "the child failed: {said}");
    let growth: usize = growth.expect("the child says by how much it grew").parse().unwrap();
    println!("{condition} bodies of {sizes:?} bytes: grew by {} KiB", growth >> 10);
    assert!(growth <= MAX_GROWTH, "it grew by {growth} bytes");
}

/// Follows `web` at the address on its standard input until that ends, then
/// says by how much the process grew at most.
#[tokio::test]
#[ignore = "a child process of garbage_makes_a_process_grow_by_no_more_than_64_mib"]
async fn child_that_follows_a_service() {
    let mut addr = String::new();
    std::io::stdin().read_line(&mut addr).unwrap();
    let client = Client::builder(addr.trim()).build().unwrap();
    let mut view = ConsulResolver::new(client).resolve(&"web".parse().unwrap());
    let before = memory("VmRSS:");
    until(&mut view, |now| now.instances.is_some()).await;
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    ended.await.unwrap().unwrap();
    assert!(view.borrow().instances.is_some());
    println!("grew by {}", memory("VmHWM:").saturating_sub(before));
}

/// A figure of this process in bytes.
fn memory(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}
