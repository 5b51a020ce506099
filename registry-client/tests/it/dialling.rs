//! Names with several addresses, of which some lead nowhere.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use registry_client::{
    Channel,
    instance::Instance,
    resolve::fixed::FixedResolver,
    testing::{Connector, Fault, FaultProxy},
};

use crate::{
    channel::{ADD, call, config, echo, methods},
    server::within,
};

/// A channel to one instance whose name has these addresses.
fn named(addresses: Vec<SocketAddr>, timeout: Duration, deadline: Duration) -> Channel {
    let resolver = FixedResolver::with([Instance::new("one", "cart.internal:80".parse().unwrap())]);
    let connector = Connector::resolving(move |address| {
        assert_eq!(address.host(), "cart.internal");
        addresses.clone()
    });
    let config = config(|c| (c.connect_timeout, c.deadline) = (timeout, deadline));
    Channel::with_connector("peer".parse().unwrap(), &resolver, methods(), config, connector)
}

/// An address from which no packet comes back, for as long as it is held.
async fn swallowed() -> FaultProxy {
    let proxy = FaultProxy::start(([127, 0, 0, 1], 1).into()).await.unwrap();
    proxy.set(Fault::Unreachable).await;
    proxy
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_instance_is_reached_whichever_of_its_addresses_are_dead() {
    let well = echo().await;
    let (off, far) = (swallowed().await, swallowed().await);
    let closed: SocketAddr = ([127, 0, 0, 1], 1).into();
    let on = well.address();
    let (off, far) = (off.address(), far.address());
    for (what, addresses) in [
        ("one address", vec![on]),
        ("the first machine is off", vec![off, on]),
        ("the same machine twice", vec![off, off, off, on]),
        ("two machines are off", vec![off, far, on]),
        ("nothing listens on the first", vec![closed, on]),
        ("IPv6 leads nowhere", vec!["[2001:db8::1]:80".parse().unwrap(), on]),
        ("the last of many", (1..=100).map(|n| ([127, 0, 1, n], 1).into()).chain([on]).collect()),
    ] {
        let channel = named(addresses, Duration::from_secs(5), Duration::from_secs(4));
        let began = Instant::now();
        assert_eq!(within(call(&channel, ADD)).await.unwrap(), "hello", "{what}");
        assert!(began.elapsed() < Duration::from_secs(2), "{what}: {:?}", began.elapsed());
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_name_without_a_live_address_fails_with_each_of_them_and_why() {
    let off = swallowed().await;
    let (off, closed): (_, SocketAddr) = (off.address(), ([127, 0, 0, 1], 1).into());
    let channel = named(vec![off, closed], Duration::from_millis(300), Duration::from_millis(900));
    let failed = within(call(&channel, ADD)).await.unwrap_err().to_string();
    for part in [
        "no connection to `cart.internal`: ",
        &format!("{closed}: Connection refused"),
        &format!("{off}: no answer within "),
    ] {
        assert!(failed.contains(part), "{part}: {failed}");
    }
    let nowhere = named(Vec::new(), Duration::from_millis(300), Duration::from_millis(900));
    let failed = within(call(&nowhere, ADD)).await.unwrap_err().to_string();
    assert!(failed.contains("`cart.internal` has no address"), "{failed}");
}
