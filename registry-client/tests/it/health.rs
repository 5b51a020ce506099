//! Who is called and who is not, when an instance hangs, fails or says that
//! it goes.

use std::time::Duration;

use registry_client::testing::FaultyServer;

use crate::{
    channel::{GET, call, connected, echo},
    server::within,
};

/// A peer on a thread of its own, which can be made to stand still.
pub(crate) struct Freezer {
    freeze: Option<tokio::sync::oneshot::Sender<()>>,
    _thaw: std::sync::mpsc::Sender<()>,
}

impl Freezer {
    pub(crate) async fn start() -> (Self, FaultyServer) {
        let (tell, peer) = tokio::sync::oneshot::channel();
        let (freeze, frozen) = tokio::sync::oneshot::channel::<()>();
        let (thaw, thawed) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let _ = tell.send(echo().await);
                let _ = frozen.await;
                let _ = thawed.recv();
            });
        });
        (Self { freeze: Some(freeze), _thaw: thaw }, peer.await.unwrap())
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
