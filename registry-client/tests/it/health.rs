//! Who is called and who is not, when an instance hangs, fails or says that
//! it goes.

use std::time::Duration;

use registry_client::{
    Channel,
    balance::Balancer,
    instance::{HEALTH_SERVICE, Instance},
    policy::{Methods, budget::BudgetConfig},
    resolve::fixed::FixedResolver,
    telemetry::{ChannelState, InstanceState},
    testing::{Connector, FaultyServer, FaultyService, HealthReply, Reply},
};
use tonic::Code;

use crate::{
    channel::{ADD, GET, call, config, connected, echo, start},
    server::within,
};

/// Waits until the channel's state satisfies `condition`.
async fn until(channel: &Channel, condition: impl Fn(&ChannelState) -> bool) {
    let reached = async {
        while !condition(&channel.state().unwrap()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within(reached).await;
}

/// The `n`th instance.
fn instance(channel: &Channel, n: usize) -> InstanceState {
    channel.state().unwrap().instances[n].clone()
}

fn ready(state: &ChannelState) -> Vec<bool> {
    state.instances.iter().map(|instance| instance.ready).collect()
}

/// A peer on a thread of its own, which can be made to stand still.
pub(crate) struct Freezer {
    freeze: Option<tokio::sync::oneshot::Sender<()>>,
    _resume: std::sync::mpsc::Sender<()>,
}

impl Freezer {
    pub(crate) async fn start() -> (Self, FaultyServer) {
        let (report, peer) = tokio::sync::oneshot::channel();
        let (freeze, frozen) = tokio::sync::oneshot::channel::<()>();
        let (resume, resumed) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let _ = report.send(echo().await);
                let _ = frozen.await;
                let _ = resumed.recv();
            });
        });
        (Self { freeze: Some(freeze), _resume: resume }, peer.await.unwrap())
    }

    pub(crate) fn freeze(&mut self) {
        self.freeze.take().unwrap().send(()).unwrap();
    }
}

#[tokio::test]
async fn a_call_that_sits_on_a_frozen_instance_still_has_time_for_another() {
    let well = echo().await;
    let (mut freezer, frozen) = Freezer::start().await;
    let (channel, _resolver) = connected(&[&well, &frozen], |c| {
        c.deadline = Duration::from_secs(2);
        c.keepalive_time = Duration::from_secs(2);
        c.keepalive_timeout = Duration::from_secs(1);
        // Half of the calls are sent again, at once.
        c.service_config.budget = BudgetConfig::Share { ratio: 0.2, min_per_second: 10 };
    })
    .await;
    freezer.freeze();
    let calls = (0..20).map(|_| {
        let channel = channel.clone();
        tokio::spawn(async move { call(&channel, GET).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(within(call).await.unwrap().unwrap(), "hello");
    }
}

#[tokio::test]
async fn an_instance_that_fails_five_times_in_a_row_is_out_and_one_call_brings_it_back() {
    let (well, ill) = (echo().await, echo().await);
    let (channel, _resolver) = connected(&[&well, &ill], |c| {
        c.outlier.as_mut().unwrap().base_ejection_time = Duration::from_millis(200);
    })
    .await;
    ill.set(Reply::fail(Code::Internal));
    let before = ill.counts().requests;
    let mut failed = 0;
    while ready(&channel.state().unwrap()) == [true, true] {
        failed += u64::from(call(&channel, ADD).await.is_err());
        tokio::task::yield_now().await;
    }
    assert!((5..12).contains(&failed), "{failed}");
    assert_eq!(ill.counts().requests - before, failed);
    let out = instance(&channel, 1);
    assert_eq!((out.decided_by, out.ejections), (Some("outlier"), 1), "{out:?}");
    assert!(out.why.contains("failures in a row"), "{out:?}");
    assert_eq!(channel.counters().unwrap().ejections.get(), 1);

    // While the one that tries it is under way, no other is sent there.
    ill.set(Reply::Slow(Duration::from_millis(300)));
    let before = ill.counts().requests;
    let back = async {
        while !instance(&channel, 1).ready {
            let calls = (0..10).map(|_| call(&channel, ADD));
            assert!(futures_util::future::join_all(calls).await.iter().all(Result::is_ok));
            assert!(instance(&channel, 1).ready || ill.counts().requests <= before + 1);
        }
    };
    within(back).await;
}

#[tokio::test]
async fn a_probe_that_fails_ejects_again_and_for_longer() {
    let (well, ill) = (echo().await, start(Reply::fail(Code::Unavailable)).await);
    let (channel, _resolver) = connected(&[&well, &ill], |c| {
        c.outlier.as_mut().unwrap().base_ejection_time = Duration::from_millis(20);
        c.service_config.budget = BudgetConfig::Share { ratio: 0.2, min_per_second: 10 };
    })
    .await;
    let longer = async {
        while instance(&channel, 1).ejections < 4 {
            call(&channel, GET).await.unwrap();
        }
    };
    within(longer).await;
    let probes = ill.counts().requests;
    let again = channel.counters().unwrap().ejections.get();
    // `connected` needs some, five are the run; then one each time.
    assert!(probes >= 5 + 3 && again >= 4, "{probes} requests, {again} ejections");
}

#[tokio::test]
async fn calls_that_run_out_of_time_eject_too() {
    let (well, mute) = (echo().await, echo().await);
    let (channel, _resolver) = connected(&[&well, &mute], |c| c.deadline = Duration::from_millis(200)).await;
    mute.set(Reply::Hang);
    let calls = (0..40).map(|_| call(&channel, GET));
    futures_util::future::join_all(calls).await;
    until(&channel, |state| ready(state) == [true, false]).await;
    assert_eq!(instance(&channel, 1).decided_by, Some("outlier"));
}

#[tokio::test]
async fn an_ejected_instance_that_moves_stays_ejected() {
    let (well, ill, moved) = (echo().await, echo().await, echo().await);
    let (channel, resolver) = connected(&[&well, &ill], |_| {}).await;
    ill.set(Reply::fail(Code::Internal));
    while instance(&channel, 1).ready {
        let _ = call(&channel, ADD).await;
        tokio::task::yield_now().await;
    }
    resolver.set([well.instance("0"), moved.instance("1")]);
    let there = moved.address().to_string();
    until(&channel, |state| state.instances[1].address == there && state.instances[1].watch == "serving")
        .await;
    let state = instance(&channel, 1);
    assert_eq!((state.ready, state.decided_by), (false, Some("outlier")), "{state:?}");
}

#[tokio::test]
async fn an_instance_that_says_not_serving_gets_no_more_calls_until_it_serves() {
    let (one, other) = (echo().await, echo().await);
    let (channel, _resolver) = connected(&[&one, &other], |_| {}).await;
    other.set_health(HealthReply::NotServing);
    until(&channel, |state| ready(state) == [true, false]).await;
    let out = instance(&channel, 1);
    assert_eq!((out.decided_by, out.watch), (Some("watch"), "not_serving"));
    let before = other.counts().requests;
    for _ in 0..20 {
        call(&channel, ADD).await.unwrap();
    }
    assert_eq!(other.counts().requests, before);
    other.set_health(HealthReply::Serving);
    until(&channel, |state| ready(state) == [true, true]).await;
}

#[tokio::test]
async fn when_nobody_serves_those_that_answer_are_called() {
    for health in [HealthReply::NotServing, HealthReply::ServiceUnknown] {
        let peers = [echo().await, echo().await];
        let (channel, _resolver) = connected(&[&peers[0], &peers[1]], |_| {}).await;
        peers.iter().for_each(|peer| peer.set_health(health));
        until(&channel, |state| state.instances.iter().all(|i| i.watch == "not_serving")).await;
        for _ in 0..20 {
            call(&channel, ADD).await.unwrap();
        }
        let state = instance(&channel, 0);
        assert!(state.ready && state.why.contains("does not serve"), "{state:?}");
        // The first that is well is the only one called, at once.
        peers[1].set_health(HealthReply::Serving);
        until(&channel, |state| ready(state) == [false, true]).await;
    }
}

#[tokio::test]
async fn an_instance_without_a_health_service_is_called_and_asked_once() {
    let peer = echo().await;
    peer.set_health(HealthReply::Unimplemented);
    let (channel, _resolver) = connected(&[&peer], |_| {}).await;
    until(&channel, |state| state.instances[0].watch == "off").await;
    for _ in 0..20 {
        call(&channel, ADD).await.unwrap();
    }
    assert_eq!(peer.counts().health, 1);
}

#[tokio::test]
async fn an_instance_whose_health_service_is_silent_is_called_after_a_moment() {
    let peer = echo().await;
    peer.set_health(HealthReply::Silent);
    let (channel, _resolver) = connected(&[&peer], |_| {}).await;
    assert_eq!(instance(&channel, 0).watch, "off");
    // Its word counts as soon as there is one.
    peer.set_health(HealthReply::Serving);
    until(&channel, |state| state.instances[0].watch == "serving").await;
}

#[tokio::test]
async fn nobody_is_asked_for_its_health_or_ejected_where_both_are_off() {
    let peers = [echo().await, echo().await];
    let (channel, _resolver) = connected(&[&peers[0], &peers[1]], |c| {
        c.health_watch = false;
        c.outlier = None;
    })
    .await;
    peers[1].set(Reply::fail(Code::Internal));
    for _ in 0..40 {
        let _ = call(&channel, ADD).await;
    }
    assert_eq!(ready(&channel.state().unwrap()), [true, true]);
    assert_eq!(peers[0].counts().health + peers[1].counts().health, 0);
}

/// A channel over one service in this process, without sockets, so that it can
/// run on a paused clock.
fn in_process(service: &FaultyService) -> (Channel, FixedResolver) {
    let resolver = FixedResolver::with([Instance::new("one", "127.0.0.1:1".parse().unwrap())]);
    let service = service.clone();
    let connector = Connector::new(move |_| {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let service = service.clone();
        tokio::spawn(async move { service.serve(theirs).await });
        async { Ok(ours) }
    });
    let name = "peer".parse().unwrap();
    let config = config(|c| c.deadline = Duration::from_secs(60));
    (Channel::with_connector(name, &resolver, Methods::default(), config, connector), resolver)
}

#[tokio::test(start_paused = true)]
async fn a_full_connection_gets_others_which_are_closed_when_nobody_uses_them() {
    let service = FaultyService::from(Reply::Slow(Duration::from_secs(5)));
    // Three streams: the watch, and two calls.
    service.set_http2(|http2| http2.streams = 3);
    let (channel, _resolver) = in_process(&service);
    call(&channel, ADD).await.unwrap();
    assert_eq!(instance(&channel, 0).connections, 1);

    // Calls find the others full one by one.
    let (mut calls, mut began) = (Vec::new(), 0);
    while instance(&channel, 0).connections < 4 && began < 100 {
        let channel = channel.clone();
        calls.push(tokio::spawn(async move { call(&channel, ADD).await }));
        began += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(instance(&channel, 0).connections, 4, "after {began} calls");
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(service.counts().connections, 4, "and no more than the limit");

    tokio::time::sleep(Duration::from_secs(70)).await;
    assert_eq!((instance(&channel, 0).connections, service.counts().open), (1, 1));
    call(&channel, ADD).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_allows_one_stream_at_a_time_spends_it_on_calls() {
    let service = FaultyService::from(Reply::Echo);
    service.set_http2(|http2| http2.streams = 1);
    let (channel, _resolver) = in_process(&service);
    for _ in 0..20 {
        call(&channel, ADD).await.unwrap();
    }
    assert_eq!((service.counts().health, instance(&channel, 0).watch), (0, "off"));
}

#[tokio::test]
async fn a_further_connection_carries_on_while_the_first_is_replaced() {
    let peer = echo().await;
    peer.set(Reply::Slow(Duration::from_millis(100)));
    peer.set_http2(|http2| http2.streams = 3);
    let (channel, _resolver) = connected(&[&peer], |_| {}).await;
    let load = |n: usize| futures_util::future::join_all((0..n).map(|_| call(&channel, ADD)));
    while instance(&channel, 0).connections < 2 {
        assert!(within(load(6)).await.iter().all(Result::is_ok));
    }
    peer.go_away();
    for _ in 0..5 {
        let answers = within(load(6)).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
}

#[tokio::test]
async fn an_instance_that_joins_others_gets_a_small_share_at_first() {
    for (slow_start, shares) in [(3_600, 1..30), (0, 70..130)] {
        let peers = [echo().await, echo().await, echo().await];
        let (channel, resolver) = connected(&[&peers[0], &peers[1]], |c| {
            c.balancer = Balancer::LeastRequest;
            c.slow_start = Duration::from_secs(slow_start);
        })
        .await;
        resolver.set((0..3).map(|n| peers[n].instance(&n.to_string())));
        until(&channel, |state| ready(state) == [true; 3]).await;
        for _ in 0..300 {
            call(&channel, ADD).await.unwrap();
        }
        let newcomer = peers[2].counts().requests;
        assert!(shares.contains(&newcomer), "{newcomer} of 300 in a slow start of {slow_start} s");
    }
}

#[tokio::test]
async fn an_instance_is_asked_for_the_name_that_it_registered_and_a_stranger_does_not_know_it() {
    let (well, other_program) = (echo().await, echo().await);
    let resolver = FixedResolver::with([]);
    let named = |peer: &FaultyServer, id: &str| {
        let mut instance = peer.instance(id);
        instance.meta.insert(HEALTH_SERVICE.to_owned(), "peer".to_owned());
        instance
    };
    other_program.set_health(HealthReply::NotFound);
    resolver.set([named(&well, "0"), named(&other_program, "1")]);
    let channel = crate::channel::channel(&resolver, |_| {});
    until(&channel, |state| ready(state) == [true, false] && !state.instances[1].why.is_empty()).await;
    let out = instance(&channel, 1);
    assert_eq!(out.decided_by, Some("watch"), "{out:?}");
    assert!(out.why.contains("`peer`"), "{out:?}");
    // Registered without a name, as by another kind of server, it is checked
    // for the whole.
    other_program.set_health(HealthReply::Serving);
    resolver.set([named(&well, "0"), other_program.instance("1")]);
    until(&channel, |state| ready(state) == [true, true]).await;
}

#[tokio::test]
async fn an_instance_whose_health_flips_is_taken_out_at_once_and_held_out() {
    let (well, flapping) = (echo().await, echo().await);
    let (channel, _resolver) = connected(&[&well, &flapping], |_| {}).await;
    // How often the ready set changes.
    let watched = channel.clone();
    let (seen, switches) = tokio::sync::watch::channel(0);
    let watch = tokio::spawn(async move {
        let mut was = true;
        loop {
            let is = instance(&watched, 1).ready;
            seen.send_modify(|switches| *switches += u32::from(is != was));
            was = is;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let mut flips = tokio::time::interval(Duration::from_millis(500));
    for (health, name) in
        [(HealthReply::NotServing, "not_serving"), (HealthReply::Serving, "serving")].repeat(4)
    {
        flips.tick().await;
        flapping.set_health(health);
        until(&channel, |state| state.instances[1].watch == name).await;
    }
    // Out, in again for free, and out for good: without damping each flip is a change.
    watch.abort();
    assert!(*switches.borrow() <= 3, "{switches:?}");
    let out = instance(&channel, 1);
    assert_eq!((out.ready, out.decided_by), (false, Some("damping")), "{out:?}");
    assert!(out.why.starts_with("returned 4 times within a minute; held for "), "{out:?}");
    let before = flapping.counts().requests;
    for _ in 0..20 {
        call(&channel, ADD).await.unwrap();
    }
    assert_eq!(flapping.counts().requests, before);

    // What is held is better than nothing, and than what says not to serve.
    well.set_health(HealthReply::NotServing);
    until(&channel, |state| ready(state) == [false, true]).await;
    let used = instance(&channel, 1);
    assert!(used.why.contains("held for") && used.decided_by.is_none(), "{used:?}");
    let before = well.counts().requests;
    for _ in 0..20 {
        call(&channel, ADD).await.unwrap();
    }
    assert_eq!(well.counts().requests, before);
}

#[tokio::test(start_paused = true)]
async fn a_held_instance_returns_when_its_time_is_over_without_any_other_event() {
    let service = FaultyService::from(Reply::Echo);
    let (channel, resolver) = in_process(&service);
    // Only a registry knows of it; nothing else moves the pool.
    let entry = |health| {
        let mut instance = Instance::new("one", "127.0.0.1:1".parse().unwrap());
        instance.health = health;
        resolver.set([instance]);
    };
    let now = || instance(&channel, 0);
    until(&channel, |state| ready(state) == [true]).await;
    for returns in 1..=3 {
        entry(registry_client::instance::InstanceHealth::Critical);
        until(&channel, |state| state.instances[0].registry == "critical").await;
        entry(registry_client::instance::InstanceHealth::Passing);
        until(&channel, |state| state.instances[0].registry == "passing").await;
        assert_eq!(now().why.is_empty(), returns == 1, "{:?}", now());
    }
    let since = tokio::time::Instant::now();
    assert_eq!(now().why, "returned 3 times within a minute; held for 4 s more");
    tokio::time::sleep(Duration::from_millis(3_900)).await;
    assert_eq!(now().why, "returned 3 times within a minute; held for 1 s more");
    until(&channel, |state| state.instances[0].why.is_empty()).await;
    assert!(since.elapsed() < Duration::from_millis(4_100), "{:?}", since.elapsed());
}
