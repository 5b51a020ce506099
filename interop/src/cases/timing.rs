//! Time that runs out on both sides, and time in which nothing happens.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout};
use tonic::{Code, Request};

use crate::{
    client::Client,
    proto::{ResponseParameters, StreamingOutputCallRequest},
};

/// How many calls expire.
const CALLS: u64 = 600;
/// How many of them at once.
const CALLS_AT_ONCE: usize = 20;
/// How long the server sleeps before it answers one of them.
const SLEEP: Duration = Duration::from_secs(2);
/// How long it sleeps where its response and the deadline come together.
const RACE: Duration = Duration::from_millis(20);
/// How long one of them may take at all.
const MAX_CALL: Duration = Duration::from_secs(2);
/// How long a long call takes.
const LONG_CALL: Duration = Duration::from_secs(45);

/// A request that is answered after that time.
fn answered_after(sleep: Duration) -> Result<StreamingOutputCallRequest> {
    let interval_us =
        i32::try_from(sleep.as_micros()).context("the server sleeps for half an hour at most")?;
    let parameters = ResponseParameters { size: 1, interval_us, ..ResponseParameters::default() };
    Ok(StreamingOutputCallRequest { response_parameters: vec![parameters], ..Default::default() })
}

/// Every call whose deadline passes says so, whichever side's timer was first;
/// and no connection is lost over it.
pub(super) async fn deadlines(client: Client) -> Result<()> {
    let calls = (0..CALLS).map(|n| (SLEEP, Duration::from_millis(20 + n % 20)));
    ended_with(&client, calls, &[Code::DeadlineExceeded]).await
}

/// The same where the response comes when the deadline does: a server may send
/// its headers after its own timer has reset the stream.
pub(super) async fn deadline_race(client: Client) -> Result<()> {
    let calls =
        (0..CALLS).map(|n| (RACE, RACE - Duration::from_millis(2) + Duration::from_micros(n % 40 * 100)));
    ended_with(&client, calls, &[Code::Ok, Code::DeadlineExceeded]).await
}

/// Makes calls, each with the time that the server sleeps and its deadline;
/// fails when one ends with another code or a connection is lost.
async fn ended_with(
    client: &Client,
    calls: impl Iterator<Item = (Duration, Duration)>,
    wanted: &[Code],
) -> Result<()> {
    super::unary::empty(client.clone()).await?;
    let before = client.connections()?;
    let calls = stream::iter(calls).map(|(sleep, limit)| expire(client.clone(), sleep, limit));
    let codes: Vec<_> = calls.buffer_unordered(CALLS_AT_ONCE).collect().await;
    let mut counted: BTreeMap<i32, u64> = BTreeMap::new();
    for code in codes {
        *counted.entry(code? as i32).or_default() += 1;
    }
    let lost = client.connections()?.lost - before.lost;
    let all_wanted = counted.keys().all(|code| wanted.contains(&Code::from_i32(*code)));
    let said: Vec<_> = counted.iter().map(|(code, n)| format!("{n} {:?}", Code::from_i32(*code))).collect();
    ensure!(
        all_wanted && lost == 0,
        "{CALLS} calls ended with {}, and should have with {wanted:?}; {lost} connections were lost",
        said.join(", ")
    );
    Ok(())
}

/// How a call ends whose deadline passes while the server sleeps.
async fn expire(client: Client, sleep: Duration, limit: Duration) -> Result<Code> {
    let mut request = Request::new(answered_after(sleep)?);
    request.set_timeout(limit);
    let ended = timeout(MAX_CALL, async {
        match client.test().streaming_output_call(request).await {
            Ok(call) => call.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        }
    });
    let ended = ended.await.with_context(|| format!("a call with {limit:?} outlives them by far"))?;
    Ok(ended.err().map_or(Code::Ok, |status| status.code()))
}

/// A stream on which nothing comes, calls that take long, and a connection
/// without any are all still there after a while.
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
        let begun = Instant::now();
        while begun.elapsed() < silence {
            answer(calling, LONG_CALL.min(silence)).await.context("a long call was cut")?;
        }
        Ok(())
    };
    let silent_stream = async { answer(streaming, silence).await.context("the silent stream was cut") };
    let (calls, stream) = tokio::join!(long_calls, silent_stream);
    super::unary::empty(idle.clone()).await.context("the idle connection is of no use")?;
    let lost =
        clients.iter().zip(before).map(|(client, before)| Ok(client.connections()?.lost - before.lost));
    let lost = lost.collect::<Result<Vec<_>>>()?;
    calls.and(stream).with_context(|| format!("connections lost (stream, calls, idle): {lost:?}"))?;
    ensure!(lost == [0, 0, 0], "connections lost (stream, calls, idle): {lost:?}");
    Ok(())
}

/// The one response of a stream on which nothing comes before it.
async fn answer(client: &Client, after: Duration) -> Result<()> {
    let mut request = Request::new(answered_after(after)?);
    request.set_timeout(after * 2);
    let mut responses = client.test().streaming_output_call(request).await?.into_inner();
    ensure!(responses.message().await?.is_some(), "the stream ended without a response");
    Ok(())
}
