use std::{collections::BTreeMap, sync::Mutex};

use tokio::{
    net::{TcpListener, TcpSocket},
    time::{sleep, timeout},
};

use super::*;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The end of an attempt.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Connects after so many milliseconds.
    Connects(u64),
    /// Is refused after so many milliseconds.
    Refused(u64),
    /// No packet comes back.
    Swallowed,
}

use End::{Connects, Refused, Swallowed};

struct Outcome {
    winner: Result<SocketAddr, Vec<AddressError>>,
    took: Duration,
    /// The start of each attempt.
    started: Vec<(SocketAddr, Duration)>,
}

async fn raced(ends: &[(SocketAddr, End)], limit: Duration) -> Outcome {
    let began = Instant::now();
    let started = Mutex::new(Vec::new());
    let ends_of: BTreeMap<_, _> = ends.iter().copied().collect();
    let open = async |address| {
        started.lock().unwrap().push((address, began.elapsed()));
        match ends_of[&address] {
            Connects(after) => {
                sleep(millis(after)).await;
                Ok(address)
            }
            Refused(after) => {
                sleep(millis(after)).await;
                Err(io::ErrorKind::ConnectionRefused.into())
            }
            Swallowed => std::future::pending().await,
        }
    };
    let winner = race(interleave(ends.iter().map(|(a, _)| *a)), began + limit, open).await;
    Outcome { winner, took: began.elapsed(), started: started.into_inner().unwrap() }
}

/// What it is about, the attempts in the resolver's order, who wins, and after
/// how many milliseconds.
type Case<'a> = (&'a str, &'a [(SocketAddr, End)], SocketAddr, u64);

#[tokio::test(start_paused = true)]
async fn the_first_address_that_connects_wins_whatever_the_others_do() {
    let [a6, b6] = ["[2001:db8::1]:80", "[2001:db8::2]:80"].map(address);
    let [a4, b4] = ["192.0.2.1:80", "192.0.2.2:80"].map(address);
    let cases: &[Case<'_>] = &[
        ("one address", &[(a4, Connects(30))], a4, 30),
        ("IPv6 swallowed", &[(a6, Swallowed), (b6, Swallowed), (a4, Connects(20))], a4, 270),
        ("the first machine off", &[(a4, Swallowed), (b4, Connects(20))], b4, 270),
        ("IPv6 refused", &[(a6, Refused(5)), (a4, Connects(20))], a4, 25),
        (
            "three refused at once",
            &[(a6, Refused(0)), (b6, Refused(0)), (a4, Refused(0)), (b4, Connects(9))],
            b4,
            9,
        ),
        ("a slow first", &[(a6, Connects(260)), (a4, Connects(100))], a6, 260),
        ("a first slower than the second", &[(a6, Connects(400)), (a4, Connects(100))], a4, 350),
        (
            "swallowed, refused, swallowed",
            &[(a6, Swallowed), (a4, Refused(10)), (b6, Swallowed), (b4, Connects(1))],
            b4,
            511,
        ),
    ];
    for (what, ends, winner, took) in cases {
        let outcome = raced(ends, Duration::from_secs(5)).await;
        assert_eq!(outcome.winner.unwrap(), *winner, "{what}");
        assert!(outcome.took.abs_diff(millis(*took)) <= millis(5), "{what}: {:?}", outcome.took);
    }
}

#[tokio::test(start_paused = true)]
async fn every_address_gets_its_attempt_before_the_deadline_and_few_at_a_time() {
    for (count, limit) in [(2, 200), (3, 500), (16, 5_000), (17, 1_000), (100, 5_000), (100, 1_500)] {
        let ends: Vec<_> = (0..count).map(|n| (SocketAddr::from(([192, 0, 2, n], 80)), Swallowed)).collect();
        let outcome = raced(&ends, millis(limit)).await;
        assert_eq!(outcome.winner.unwrap_err().len(), usize::from(count));
        assert!(outcome.took <= millis(limit + 2), "{count}: {:?}", outcome.took);
        let last = outcome.started.last().unwrap().1;
        assert!(last < millis(limit), "{count} within {limit} ms: {last:?}");
        // The last of them connects in time, if it can do so quickly.
        let mut ends = ends;
        ends.last_mut().unwrap().1 = Connects(5);
        assert!(raced(&ends, millis(limit)).await.winner.is_ok(), "{count} within {limit} ms");
        let most = outcome.started.windows(usize::try_from(MAX_ATTEMPTS).unwrap() + 1);
        let apart = most.map(|w| w[w.len() - 1].1 - w[0].1).min();
        assert!(apart.is_none_or(|apart| apart >= MIN_ATTEMPT_DELAY * MAX_ATTEMPTS), "{apart:?}");
    }
}

#[test]
fn addresses_take_turns_by_family_and_stand_there_once() {
    let turns = |texts: &[&str]| -> Vec<String> {
        interleave(texts.iter().map(|text| address(text))).iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        turns(&["[::1]:1", "[::2]:1", "[::1]:1", "[::3]:1", "1.1.1.1:1", "1.1.1.1:1"]),
        ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]
    );
    assert_eq!(turns(&["1.1.1.1:1", "1.1.1.2:1", "[::1]:1"]), ["1.1.1.1:1", "[::1]:1", "1.1.1.2:1"]);
    assert!(turns(&[]).is_empty());
    let many =
        (0..5_000_u16).map(|n| SocketAddr::from(([10, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]], 80)));
    assert_eq!(interleave(many).len(), MAX_ADDRESSES);
}

#[test]
fn an_error_names_each_address_and_why_and_the_caller_s_own_only_once() {
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    let failures = |n: u8| -> Vec<AddressError> {
        (1..=n).map(|n| (SocketAddr::from(([192, 0, 2, n], 80)), refused())).collect()
    };
    let text = |host, n| error(host, failures(n)).to_string();
    assert_eq!(text("cart", 0), "`cart` has no address");
    assert_eq!(text("192.0.2.1", 1), "connection refused");
    assert_eq!(text("cart", 1), "no connection to `cart`: 192.0.2.1:80: connection refused");
    let seven = text("cart", 7);
    assert!(seven.contains("192.0.2.5:80: connection refused; and 2 more"), "{seven}");
    assert_eq!(error("cart", failures(2)).kind(), io::ErrorKind::ConnectionRefused);
}

/// A listener whose queue is full, so that no packet is answered.
async fn swallowing(at: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.bind(at).unwrap();
    let listener = socket.listen(1).unwrap();
    let mut fillers = Vec::new();
    while let Ok(filler) = timeout(millis(100), TcpStream::connect(listener.local_addr().unwrap())).await {
        fillers.push(filler.unwrap());
        assert!(fillers.len() < 50, "its queue never fills");
    }
    (listener, fillers)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn real_sockets_are_raced_past_a_machine_that_is_off() {
    let (off_listener, _fillers) = swallowing(address("127.0.0.2:0")).await;
    let on_listener = TcpListener::bind("127.0.0.3:0").await.unwrap();
    let closed = TcpListener::bind("127.0.0.4:0").await.unwrap().local_addr().unwrap();
    let [off, on] = [&off_listener, &on_listener].map(|listener| listener.local_addr().unwrap());
    let began = Instant::now();
    let deadline = began + Duration::from_secs(5);
    let stream = connect_any("cart", [off, off, closed, on], deadline).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), on);
    assert!(stream.nodelay().unwrap());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());

    let failed = connect_any("cart", [off, closed], Instant::now() + millis(400)).await.unwrap_err();
    let (failed, off, closed) = (failed.to_string(), off.to_string(), closed.to_string());
    assert!(failed.contains(&format!("{off}: no answer within ")), "{failed}");
    assert!(failed.contains(&format!("{closed}: Connection refused")), "{failed}");
}

#[tokio::test]
async fn a_name_is_looked_up_and_one_that_does_not_exist_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let soon = || Instant::now() + Duration::from_secs(5);
    let stream = connect("localhost", port, soon()).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap().port(), port);
    let failed = connect("no-such-host.invalid", port, soon()).await.unwrap_err().to_string();
    assert!(failed.starts_with("`no-such-host.invalid` "), "{failed}");
}

#[test]
fn a_lost_probe_is_not_the_end_of_a_connection() {
    for (idle, limit) in [(10_000, 5_000), (1_000, 500), (100, 100), (30_000, 10_000)] {
        let liveness = Liveness::new(millis(idle), millis(limit));
        let (first, interval) = liveness.times();
        assert!(first >= millis(idle) && interval >= Duration::from_secs(1));
        #[cfg(target_os = "linux")]
        assert!(liveness.user_timeout() > first + interval * 2);
    }
    let (idle, interval) = Liveness::new(Duration::MAX, Duration::MAX).times();
    assert!(idle.as_secs() <= 32_767 && interval.as_secs() <= 32_767, "the kernel takes no more");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_operating_system_is_asked_to_watch_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    Liveness::new(Duration::from_secs(10), Duration::from_secs(5)).set(&stream).unwrap();
    let socket = SockRef::from(&stream);
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(10));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(2));
    assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(16)));
}
