//! Deadlines that expire on both sides, and connections without traffic.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout};
use tonic::{Code, Request};

use crate::{
    client::Client,
    proto::{ResponseParameters, StreamingOutputCallRequest},
};

/// The number of calls that expire.
const CALLS: u64 = 600;
/// Calls in flight at most.
const MAX_CALLS_IN_FLIGHT: usize = 20;
/// The server's sleep before the response to one of them.
const SERVER_SLEEP: Duration = Duration::from_secs(2);
/// The server's sleep where the response and the deadline come at the same
/// time.
const RACE_SLEEP: Duration = Duration::from_millis(20);
/// The time limit of one of them.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// The server's sleep in a long call.
const LONG_CALL_SLEEP: Duration = Duration::from_secs(45);

/// A request whose response comes after `sleep`.
fn request_with_sleep(sleep: Duration) -> Result<StreamingOutputCallRequest> {
    let interval_us =
        i32::try_from(sleep.as_micros()).context("the server sleeps for half an hour at most")?;
    let parameters = ResponseParameters { size: 1, interval_us, ..ResponseParameters::default() };
    Ok(StreamingOutputCallRequest { response_parameters: vec![parameters], ..Default::default() })
}

/// Every call whose deadline expires ends with `DeadlineExceeded`, whichever
/// side's timer is first, and no connection is lost.
pub(super) async fn deadlines(client: Client) -> Result<()> {
    let calls = (0..CALLS).map(|n| (SERVER_SLEEP, Duration::from_millis(20 + n % 20)));
    expect_codes(&client, calls, &[Code::DeadlineExceeded]).await
}

/// The response comes at the same time as the deadline: a server may send its
/// headers after its own timer has reset the stream.
pub(super) async fn deadline_race(client: Client) -> Result<()> {
    let calls = (0..CALLS)
        .map(|n| (RACE_SLEEP, RACE_SLEEP - Duration::from_millis(2) + Duration::from_micros(n % 40 * 100)));
    expect_codes(&client, calls, &[Code::Ok, Code::DeadlineExceeded]).await
}

/// Makes calls, each with the time that the server sleeps and its deadline;
/// fails when one ends with another code or a connection is lost.
async fn expect_codes(
    client: &Client,
    calls: impl Iterator<Item = (Duration, Duration)>,
    expected: &[Code],
) -> Result<()> {
    super::unary::empty(client.clone()).await?;
    let before = client.connections()?;
    let calls = stream::iter(calls).map(|(sleep, deadline)| code_of_call(client.clone(), sleep, deadline));
    let codes: Vec<_> = calls.buffer_unordered(MAX_CALLS_IN_FLIGHT).collect().await;
    let mut codes_seen: BTreeMap<i32, u64> = BTreeMap::new();
    for code in codes {
        *codes_seen.entry(code? as i32).or_default() += 1;
    }
    let lost = client.connections()?.lost - before.lost;
    let all_expected = codes_seen.keys().all(|code| expected.contains(&Code::from_i32(*code)));
    let counts: Vec<_> =
        codes_seen.iter().map(|(code, n)| format!("{n} {:?}", Code::from_i32(*code))).collect();
    ensure!(
        all_expected && lost == 0,
        "{CALLS} calls ended with {}, expected {expected:?}; {lost} connections were lost",
        counts.join(", ")
    );
    Ok(())
}

/// The code of a call whose deadline expires while the server sleeps.
async fn code_of_call(client: Client, sleep: Duration, deadline: Duration) -> Result<Code> {
    let mut request = Request::new(request_with_sleep(sleep)?);
    request.set_timeout(deadline);
    let ended = timeout(CALL_TIMEOUT, async {
        match client.test().streaming_output_call(request).await {
            Ok(call) => call.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        }
    });
    let ended = ended.await.with_context(|| {
        format!("a call with the deadline {deadline:?} did not end within {CALL_TIMEOUT:?}")
    })?;
    Ok(ended.err().map_or(Code::Ok, |status| status.code()))
}

/// A stream without messages, long calls, and an idle connection all survive
/// the silent time.
pub(super) async fn silence(client: Client) -> Result<()> {
    let clients = [client.another()?, client.another()?, client.another()?];
    let mut before = Vec::new();
    for client in &clients {
        super::unary::empty(client.clone()).await?;
        before.push(client.connections()?);
    }
    let [streaming, calling, idle] = &clients;
    let silence = client.silence;
    let long_calls = async {
        let started = Instant::now();
        while started.elapsed() < silence {
            call_with_sleep(calling, LONG_CALL_SLEEP.min(silence)).await.context("a long call failed")?;
        }
        Ok(())
    };
    let silent_stream =
        async { call_with_sleep(streaming, silence).await.context("the silent stream failed") };
    let (calls, stream) = tokio::join!(long_calls, silent_stream);
    super::unary::empty(idle.clone()).await.context("the call on the idle connection failed")?;
    let lost =
        clients.iter().zip(before).map(|(client, before)| Ok(client.connections()?.lost - before.lost));
    let lost = lost.collect::<Result<Vec<_>>>()?;
    calls.and(stream).with_context(|| format!("connections lost (stream, calls, idle): {lost:?}"))?;
    ensure!(lost == [0, 0, 0], "connections lost (stream, calls, idle): {lost:?}");
    Ok(())
}

/// Makes a streaming call whose only response comes after `after`.
async fn call_with_sleep(client: &Client, after: Duration) -> Result<()> {
    let mut request = Request::new(request_with_sleep(after)?);
    request.set_timeout(after * 2);
    let mut responses = client.test().streaming_output_call(request).await?.into_inner();
    ensure!(responses.message().await?.is_some(), "the stream ended without a response");
    Ok(())
}
