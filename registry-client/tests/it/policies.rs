//! What a service config makes of calls.

use std::time::{Duration, Instant};

use registry_client::{
    Channel, ChannelConfig,
    policy::{
        MethodConfig, ServiceConfig,
        budget::BudgetConfig,
        hedge::{HedgeDelay, HedgingPolicy},
        limit::LimitConfig,
        retry::RetryPolicy,
    },
    resolve::fixed::FixedResolver,
    testing::{FaultyServer, Reply},
};
use tonic::{Code, Request, Status};

use crate::{
    channel::{ADD, GET, call, channel, connected, echo, explained, scripted, send, start, timeout_micros},
    server::within,
};

fn hedging(delay: Duration) -> MethodConfig {
    let mut policy = HedgingPolicy::default();
    policy.delay = HedgeDelay::Fixed(delay);
    policy.max_attempts = 3;
    method(|config| config.hedging = Some(policy))
}

fn method(change: impl FnOnce(&mut MethodConfig)) -> MethodConfig {
    let mut config = MethodConfig::default();
    change(&mut config);
    config
}

fn for_all(config: MethodConfig) -> impl FnOnce(&mut ChannelConfig) {
    move |channel| {
        channel.service_config = ServiceConfig::default().for_all(config);
        often(channel);
    }
}

/// Allows more second attempts than a test makes.
fn often(channel: &mut ChannelConfig) {
    channel.service_config.budget = BudgetConfig::Share { ratio: 0.2, min_per_second: 40 };
}

/// A channel to one peer.
fn to(peer: &FaultyServer, change: impl FnOnce(&mut ChannelConfig)) -> Channel {
    channel(&FixedResolver::with([peer.instance("one")]), change)
}

#[tokio::test]
async fn a_hedge_answers_for_an_instance_that_hangs_and_the_loser_is_cancelled() {
    let (mute, well) = (echo().await, echo().await);
    let (channel, _resolver) = connected(&[&mute, &well], for_all(hedging(Duration::from_millis(20)))).await;
    mute.set(Reply::Hang);
    let mut hedged = 0;
    for _ in 0..30 {
        let (request, explain) = explained();
        assert_eq!(within(send(&channel, GET, request)).await.unwrap(), "hello");
        if let [first, second] = &explain.attempts()[..] {
            assert_ne!(first.instance, second.instance);
            assert!(!first.answered && second.answered, "{first} and {second}");
            hedged += 1;
        }
    }
    assert!(hedged > 0, "the mute instance got no call");
    within(mute.until(|seen| seen.resets == hedged)).await;
}

#[tokio::test]
async fn a_delay_of_nothing_sends_to_all_at_once_and_waits_in_peace() {
    let (one, other) = (echo().await, echo().await);
    let (channel, _resolver) = connected(&[&one, &other], for_all(hedging(Duration::ZERO))).await;
    one.set(Reply::Hang);
    other.set(Reply::Hang);
    let before = one.counts().requests + other.counts().requests;
    let mut request = Request::new("hello".to_owned());
    request.set_timeout(Duration::from_millis(300));
    let waiting = tokio::spawn(async move { send(&channel, GET, request).await });
    // On this one thread the test runs only while the call does not spin.
    let mut turns = 0;
    while !waiting.is_finished() {
        turns += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!((5..=31).contains(&turns), "{turns} turns in 300 ms");
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(one.counts().requests + other.counts().requests, before + 2, "there is no third instance");
}

#[tokio::test]
async fn a_hedge_comes_at_once_after_a_failure_that_is_not_fatal() {
    let (bad, well) = (echo().await, echo().await);
    let (channel, _resolver) = connected(&[&bad, &well], for_all(hedging(Duration::from_secs(60)))).await;
    let before = bad.counts().requests;
    bad.set(Reply::fail(Code::Unavailable));
    for _ in 0..30 {
        assert_eq!(within(call(&channel, GET)).await.unwrap(), "hello");
    }
    assert!(bad.counts().requests > before, "the failing instance got no call");
}

#[tokio::test]
async fn what_may_not_be_sent_twice_is_not_hedged() {
    let (mute, other) = (start(Reply::Hang).await, start(Reply::Hang).await);
    let resolver = FixedResolver::with([mute.instance("0"), other.instance("1")]);
    let channel = channel(&resolver, for_all(hedging(Duration::from_millis(10))));
    let mut request = Request::new("hello".to_owned());
    request.set_timeout(Duration::from_millis(300));
    let failed = send(&channel, ADD, request).await.unwrap_err();
    assert_eq!(failed.code(), Code::DeadlineExceeded, "{failed}");
    assert_eq!(mute.counts().requests + other.counts().requests, 1);
}

#[tokio::test]
async fn in_an_outage_retries_stay_within_the_budget() {
    let peer = start(Reply::fail(Code::Unavailable)).await;
    let channel = to(&peer, |config| {
        let budget = BudgetConfig::Share { ratio: 0.2, min_per_second: 0 };
        config.service_config.budget = budget;
    });
    for _ in 0..300 {
        call(&channel, GET).await.unwrap_err();
    }
    let attempts = peer.counts().requests;
    // A quarter of a fifth at once; more on a machine that takes its time.
    assert!((314..=360).contains(&attempts), "{attempts} attempts of 300 calls");
    let counters = channel.counters().unwrap();
    assert_eq!(counters.retries.get() + 300, attempts);
    assert!(counters.budget_refused.get() > 200);
}

#[tokio::test]
async fn a_method_that_is_named_is_retried_as_its_policy_says() {
    let peer = scripted(|n| if n < 3 { Reply::fail(Code::Unavailable) } else { Reply::Echo }).await;
    let mut retry = RetryPolicy::default();
    retry.max_attempts = 4;
    let named = method(|config| config.retry = Some(retry));
    let channel = to(&peer, |config| {
        config.service_config = ServiceConfig::default().for_method("test.v1.Peer", "Add", named);
    });
    assert_eq!(call(&channel, ADD).await.unwrap(), "hello");
    assert_eq!(peer.counts().requests, 4);
}

#[tokio::test]
async fn a_policy_shortens_a_call_and_tells_the_server() {
    let peer = start(Reply::Hang).await;
    let channel = to(&peer, for_all(method(|config| config.timeout = Some(Duration::from_millis(200)))));
    let began = Instant::now();
    let failed = call(&channel, GET).await.unwrap_err();
    assert_eq!(failed.code(), Code::DeadlineExceeded);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let micros = timeout_micros(&peer.heads()[0].headers()["grpc-timeout"]);
    assert!((100_000..=202_000).contains(&micros), "{micros}");
}

#[tokio::test]
async fn messages_above_the_policys_size_are_refused_on_either_side() {
    let peer = scripted(|n| if n == 0 { Reply::Echo } else { Reply::Message(5_000) }).await;
    let channel = to(
        &peer,
        for_all(method(|config| {
            config.max_request_bytes = Some(1_000);
            config.max_response_bytes = Some(2_000);
        })),
    );
    assert_eq!(call(&channel, GET).await.unwrap(), "hello");

    let failed = send(&channel, GET, Request::new("x".repeat(1_001))).await.unwrap_err();
    assert_eq!(failed.code(), Code::ResourceExhausted);
    assert!(failed.message().contains("the request has a message of 10"), "{failed}");

    let failed = call(&channel, GET).await.unwrap_err();
    assert_eq!(failed.code(), Code::ResourceExhausted);
    assert!(failed.message().contains("the limit is 2000"), "{failed}");
}

#[tokio::test]
async fn one_method_can_fail_fast_while_others_wait() {
    let channel = channel(&FixedResolver::with([]), |config| {
        config.deadline = Duration::from_millis(200);
        let fast = method(|config| config.wait_for_ready = Some(false));
        config.service_config = ServiceConfig::default().for_method("test.v1.Peer", "Get", fast);
    });
    assert_eq!(call(&channel, GET).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(call(&channel, ADD).await.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_server_that_says_not_to_retry_is_obeyed() {
    let peer = start(Reply::pushback(Code::Unavailable, None)).await;
    let channel = to(&peer, |_| {});
    assert_eq!(call(&channel, GET).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(peer.counts().requests, 1);
}

#[tokio::test]
async fn a_server_that_says_when_to_retry_is_asked_again_then() {
    let wait = Duration::from_millis(300);
    let again = move |n| if n == 0 { Reply::pushback(Code::Unavailable, Some(wait)) } else { Reply::Echo };
    let peer = scripted(again).await;
    let channel = to(&peer, |_| {});
    let began = Instant::now();
    assert_eq!(call(&channel, GET).await.unwrap(), "hello");
    assert!(began.elapsed() >= wait, "{:?}", began.elapsed());
}

#[tokio::test]
async fn calls_above_the_services_limit_wait_their_turn_and_no_more_than_may() {
    let peer = start(Reply::Slow(Duration::from_millis(300))).await;
    let channel = to(&peer, |config| {
        let mut limit = LimitConfig::new(1);
        limit.queue = 1;
        limit.wait = Duration::from_secs(5);
        config.service_config.service_limit = Some(limit);
    });
    let call_it = || {
        let channel = channel.clone();
        tokio::spawn(async move { call(&channel, ADD).await })
    };
    let first = call_it();
    within(peer.until(|seen| seen.requests == 1)).await;
    let (second, third) = (call_it(), call_it());
    let (second, third) = (within(second).await.unwrap(), within(third).await.unwrap());
    let refused = second.as_ref().err().or(third.as_ref().err()).expect("one of them did not fit");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("1 calls under way and 1 waiting"), "{refused}");
    assert!(second.is_ok() != third.is_ok(), "the other one had its turn");
    assert_eq!(within(first).await.unwrap().unwrap(), "hello");
    assert_eq!((peer.counts().requests, channel.counters().unwrap().limited.get()), (2, 1));
}

#[tokio::test]
async fn a_service_that_refuses_everything_is_asked_less_and_less() {
    let peer = start(refusal()).await;
    let channel = to(&peer, |_| {});
    let mut throttled = 0;
    for _ in 0..200 {
        let failed = call(&channel, ADD).await.unwrap_err();
        assert_eq!(failed.code(), Code::ResourceExhausted);
        throttled += u64::from(failed.message().contains("client-side throttling"));
    }
    assert!(throttled > 100, "{throttled} of 200 were not sent");
    assert_eq!(peer.counts().requests + throttled, 200);
    assert_eq!(channel.counters().unwrap().throttled.get(), throttled);
}

#[tokio::test]
async fn a_service_that_fails_otherwise_is_asked_each_time() {
    for code in [Code::Unavailable, Code::ResourceExhausted, Code::Internal] {
        let peer = start(Reply::fail(code)).await;
        let channel = to(&peer, |_| {});
        for _ in 0..100 {
            assert_eq!(call(&channel, ADD).await.unwrap_err().code(), code);
        }
        assert_eq!((peer.counts().requests, channel.counters().unwrap().throttled.get()), (100, 0));
    }
}

#[tokio::test]
async fn the_service_config_chooses_the_balancing_policy() {
    let peer = echo().await;
    let channel = to(&peer, |config| {
        config.service_config = r#"{"loadBalancingConfig": [{"random": {}}]}"#.parse().unwrap();
    });
    let (request, explain) = explained();
    send(&channel, GET, request).await.unwrap();
    assert!(explain.attempts()[0].why.starts_with("random of 1"), "{}", explain.attempts()[0]);
}

#[tokio::test]
async fn outlier_detection_is_as_the_service_config_says() {
    let no_rule = r#"{"loadBalancingConfig": [{"outlier_detection_experimental": {"childPolicy": [{"round_robin": {}}]}}]}"#;
    for (config, ejects) in [("{}", true), (no_rule, false)] {
        let (bad, well) = (echo().await, echo().await);
        let config: ServiceConfig = config.parse().unwrap();
        let (channel, _resolver) = connected(&[&bad, &well], |c| c.service_config = config).await;
        bad.set(Reply::fail(Code::Internal));
        for _ in 0..100 {
            let _ = call(&channel, ADD).await;
        }
        let out = channel.state().unwrap().instances.into_iter().find(|instance| !instance.ready);
        assert_eq!(out.and_then(|instance| instance.decided_by), ejects.then_some("outlier"));
    }
}

#[tokio::test]
async fn a_call_waits_for_whichever_full_instance_frees_a_place_first() {
    let (hangs, slow) = (echo().await, echo().await);
    let (channel, _resolver) = connected(&[&hangs, &slow], |config| {
        let mut limit = LimitConfig::new(1);
        limit.queue = 6;
        config.service_config.instance_limit = Some(limit);
    })
    .await;
    hangs.set(Reply::Hang);
    slow.set(Reply::Slow(Duration::from_millis(20)));
    let (held, before) = (channel.clone(), hangs.counts().requests);
    let held = tokio::spawn(async move {
        // Whichever it is sent to first, one stays with the instance that hangs.
        while call(&held, ADD).await.is_ok() {}
    });
    within(hangs.until(|seen| seen.requests == before + 1)).await;
    let calls = (0..6).map(|_| {
        let channel = channel.clone();
        tokio::spawn(async move { call(&channel, ADD).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(within(call).await.unwrap().unwrap(), "hello");
    }
    held.abort();
}

#[tokio::test]
async fn an_instance_at_its_limit_gets_no_more_while_others_have_room() {
    let (slow, other) = (echo().await, echo().await);
    let (channel, _resolver) = connected(&[&slow, &other], |config| {
        let mut limit = LimitConfig::new(2);
        limit.queue = 1;
        limit.wait = Duration::from_secs(10);
        config.service_config.instance_limit = Some(limit);
    })
    .await;
    slow.set(Reply::Hang);
    other.set(Reply::Hang);
    let before = (slow.counts().requests, other.counts().requests);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let channel = channel.clone();
        calls.spawn(async move { call(&channel, ADD).await });
    }
    within(slow.until(|seen| seen.requests == before.0 + 2)).await;
    within(other.until(|seen| seen.requests == before.1 + 2)).await;
    // All four places are taken: one more may wait at each.
    let queued = |channel: Channel| async move {
        let mut request = Request::new("hello".to_owned());
        request.set_timeout(Duration::from_millis(300));
        send(&channel, ADD, request).await.unwrap_err()
    };
    let more: Vec<_> = (0..8).map(|_| tokio::spawn(queued(channel.clone()))).collect();
    let mut codes = Vec::new();
    for one in more {
        codes.push(within(one).await.unwrap().code());
    }
    let refused = codes.iter().filter(|code| **code == Code::ResourceExhausted).count();
    let expired = codes.iter().filter(|code| **code == Code::DeadlineExceeded).count();
    assert_eq!(
        (refused + expired, slow.counts().requests, other.counts().requests),
        (8, before.0 + 2, before.1 + 2)
    );
    assert!((1..=2).contains(&expired), "{codes:?}");
}

/// What a server's admission answers.
fn refusal() -> Reply {
    let mut status = Status::resource_exhausted("as the test says");
    status.metadata_mut().insert("consort-refused", "1".parse().unwrap());
    Reply::Fail(status)
}

#[tokio::test]
async fn what_an_overloaded_instance_refused_another_one_gets() {
    let (busy, well) = (echo().await, echo().await);
    let (channel, _resolver) = connected(&[&busy, &well], often).await;
    busy.set(refusal());
    for _ in 0..10 {
        assert_eq!(call(&channel, ADD).await.unwrap(), "hello");
    }
    well.set(refusal());
    let before = busy.counts().requests + well.counts().requests;
    assert_eq!(call(&channel, ADD).await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(busy.counts().requests + well.counts().requests, before + 2, "one more attempt and no third");
}

#[tokio::test]
async fn the_only_instance_is_not_asked_again_when_it_refuses() {
    let peer = start(refusal()).await;
    let channel = to(&peer, |_| {});
    assert_eq!(call(&channel, GET).await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(peer.counts().requests, 1);
}
