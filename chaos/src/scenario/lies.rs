//! R15: the registry says that nobody is there, and is wrong.

use std::time::Duration;

use anyhow::Result;
use registry_client::{
    Channel,
    consul::{CheckSpec, Client, ServiceSpec},
};

use crate::{
    bed::{Bed, Kind, Liar, Lie, Place, Replica, SERVICE, Setting, ports},
    load::{Load, Mix},
    verdict::Outcome,
};

/// The most questions a second, whatever is answered.
const QUERIES: f64 = 2.0;
/// A time without a send that means that an endpoint was dropped.
const DROPPED: Duration = Duration::from_secs(1);

pub(super) async fn run(setting: Setting) -> Result<Outcome> {
    let time = Duration::from_secs(setting.sized(4, 11, 20));
    let mut bed = Bed::start(&setting, setting.sized(Kind::Dev, Kind::Consul, Kind::Consul), 0).await?;
    unguarded(&mut bed).await?;
    let liar = Liar::before(bed.registry.address()).await?;
    let load = Load::start(channel(&bed, liar.client()?)?, Mix::Both)?;
    load.go_on(setting.warm_up()).await;
    let from = load.now();
    let mut busiest = 0.0_f64;
    for lie in lies() {
        liar.tell(lie);
        // A first burst is allowed.
        load.go_on(Duration::from_secs(1)).await;
        let asked = liar.questions();
        load.go_on(time).await;
        #[allow(clippy::cast_precision_loss, reason = "a count of questions is far below 2^52")]
        let rate = (liar.questions() - asked) as f64 / time.as_secs_f64();
        busiest = busiest.max(rate);
        liar.tell(Lie::None);
        load.go_on(setting.warm_up()).await;
    }
    // And now it is true, but nobody has stopped.
    for replica in &bed.replicas {
        bed.consul.deregister(replica.id.as_str()).await?;
    }
    load.go_on(time).await;
    let until = load.now();
    let seen = load.finish().await?;

    let seconds = time.as_secs();
    let fault = format!("wiped servers, filtered and refused answers, mass deregistration, {seconds} s each");
    let mut outcome = Outcome::of(fault, &seen);
    let gaps = bed.replicas.iter().flat_map(|r| seen.gaps(&r.id, from..until, DROPPED));
    outcome.at_most("dropped endpoints", gaps.count(), 0, "channel/pool.rs: unlisted instances");
    let failed = outcome.failed_idempotent + outcome.failed_other;
    outcome.at_most("failed calls", failed, 0, "channel/pool.rs: unlisted instances");
    outcome.below("queries a second", busiest, QUERIES, "consul/watch/pace.rs");
    Ok(outcome)
}

/// Three replicas that do not look after their registration: who removes it
/// has removed it.
pub(super) async fn unguarded(bed: &mut Bed) -> Result<()> {
    for n in 0..3 {
        let listen = ports::free()?;
        let place = Place { listen, through: Vec::new() };
        let replica = Replica::start(&format!("{SERVICE}-{n}"), SERVICE, place, None, &[], &bed.setting)?;
        let check = CheckSpec::grpc(&listen.into(), "");
        bed.consul.register(&ServiceSpec::new(SERVICE.parse()?, listen.into(), check)).await?;
        bed.replicas.push(replica);
    }
    bed.all_passing().await
}

fn channel(bed: &Bed, client: Client) -> Result<Channel> {
    Ok(bed.setting.mesh(client, bed.setting.channel_config())?.channel(SERVICE))
}

fn lies() -> [Lie; 4] {
    let known = "Content-Type: application/json\r\nX-Consul-Knownleader: true\r\nX-Consul-Lastcontact: 0\r\n";
    let empty = |more: &str| Lie::answer("200 OK", &format!("{known}{more}"), "[]");
    [
        // Wiped servers begin to count anew.
        empty("X-Consul-Index: 7\r\n"),
        // A token that is gone filters silently.
        empty("X-Consul-Index: 90000\r\nX-Consul-Results-Filtered-By-ACLs: true\r\n"),
        empty("X-Consul-Index: 90001\r\nX-Consul-Default-Acl-Policy: deny\r\n"),
        Lie::answer("403 Forbidden", "", "ACL not found"),
    ]
}
