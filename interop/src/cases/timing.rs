//! Time that runs out on both sides, and time in which nothing happens.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream};
use tokio::time::timeout;
use tonic::{Code, Request};

use crate::{
    client::Client,
    proto::{ResponseParameters, StreamingOutputCallRequest},
};

/// How many calls expire.
const CALLS: u64 = 200;
/// How many of them at once.
const CALLS_AT_ONCE: usize = 20;
/// How long the server sleeps before it answers one of them.
const SLEEP: Duration = Duration::from_secs(2);
/// How long nothing happens. The servers that count pings have had enough of
/// one every ten seconds after at most fifty.
const SILENCE: Duration = Duration::from_secs(70);

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
    super::unary::empty(client.clone()).await?;
    let before = client.connections()?;
    let calls = stream::iter(0..CALLS).map(|n| expire(client.clone(), Duration::from_millis(20 + n % 20)));
    let codes: Vec<_> = calls.buffer_unordered(CALLS_AT_ONCE).collect().await;
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    for code in codes {
        *counted.entry(format!("{:?}", code?)).or_default() += 1;
    }
    let wanted = format!("{:?}", Code::DeadlineExceeded);
    ensure!(counted.get(&wanted) == Some(&CALLS), "{CALLS} calls expired, and ended with {counted:?}");
    let after = client.connections()?;
    ensure!(before == after, "a connection was lost: {before:?}, then {after:?}");
    Ok(())
}

/// How a call ends whose deadline passes while the server sleeps.
async fn expire(client: Client, limit: Duration) -> Result<Code> {
    let mut request = Request::new(answered_after(SLEEP)?);
    request.set_timeout(limit);
    let ended = timeout(SLEEP, async {
        match client.test().streaming_output_call(request).await {
            Ok(call) => call.into_inner().message().await.map(drop),
            Err(status) => Err(status),
        }
    });
    let ended = ended.await.with_context(|| format!("a call with {limit:?} outlives them by far"))?;
    Ok(ended.err().map_or(Code::Ok, |status| status.code()))
}

/// A stream on which nothing comes, and a connection without any, are still
/// there after a while.
pub(super) async fn silence(client: Client) -> Result<()> {
    super::unary::empty(client.clone()).await?;
    let before = client.connections()?;
    let mut request = Request::new(answered_after(SILENCE)?);
    request.set_timeout(SILENCE * 2);
    let mut responses = client.test().streaming_output_call(request).await?.into_inner();
    let first = responses.message().await.context("the silent stream was cut")?;
    ensure!(first.is_some(), "the silent stream ended");
    super::unary::empty(client.clone()).await?;
    let after = client.connections()?;
    ensure!(before == after, "a connection was lost: {before:?}, then {after:?}");
    Ok(())
}
