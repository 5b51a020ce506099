//! The endpoints of the agent itself.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use serde::Serialize;

use super::{
    AgentSelf, AgentService, Check, CheckStatus, Client, Error, ServiceSpec, Version,
    endpoint::EndpointAddress, http::HttpCall, path, version,
};

impl Client {
    /// The agent's own settings.
    ///
    /// # Errors
    /// Any [`Error`]; it needs `agent:read`.
    pub async fn agent_self(&self) -> Result<AgentSelf, Error> {
        self.fetch(HttpCall::get("/v1/agent/self", "agent:read")).await
    }

    /// The agent's version.
    ///
    /// # Errors
    /// Any [`Error`]; an agent before 1.15 requires `agent:read`.
    pub async fn version(&self) -> Result<Version, Error> {
        version::fetch(&self.inner.transport).await
    }

    /// The services registered at this agent, by id.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn services(&self) -> Result<BTreeMap<String, AgentService>, Error> {
        let all: Option<_> = self.fetch(HttpCall::get("/v1/agent/services", "service:read")).await?;
        Ok(all.unwrap_or_default())
    }

    /// One service registered at this agent.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is not registered here, or any other.
    pub async fn service(&self, id: &str) -> Result<AgentService, Error> {
        self.fetch(service_call(id)?).await
    }

    /// The checks registered at this agent, by id.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn checks(&self) -> Result<BTreeMap<String, Check>, Error> {
        let all: Option<_> =
            self.fetch(HttpCall::get("/v1/agent/checks", "service:read and node:read")).await?;
        Ok(all.unwrap_or_default())
    }

    /// Registers an instance, or replaces the registration of the same id.
    /// Restarts its TTL and its probes: [`Registration`](super::Registration)
    /// does it only when something differs.
    ///
    /// Parts that an older agent would reject ([`ServiceSpec::locality`], and
    /// thresholds of [`CheckSpec::Grpc`](super::CheckSpec) above 1) are left
    /// out, with one warning. The agent's version is read first only if `spec`
    /// has such a part.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `spec` breaks one of Consul's rules, or any
    /// other.
    pub async fn register(&self, spec: &ServiceSpec) -> Result<(), Error> {
        spec.validate()?;
        let spec = self.without_unsupported(spec).await?;
        let call = HttpCall::put("/v1/agent/service/register", format!("service:write on `{}`", spec.name));
        self.execute(call.body(json(&spec.wire())?)).await
    }

    /// Deregisters an instance.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is not registered at this agent, or any
    /// other.
    pub async fn deregister(&self, id: &str) -> Result<(), Error> {
        let path = path::of("agent/service/deregister", id)?;
        self.execute(HttpCall::put(path, format!("service:write on the service of `{id}`"))).await
    }

    /// Deregisters a check.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is not registered at this agent, or any
    /// other.
    pub async fn deregister_check(&self, id: &str) -> Result<(), Error> {
        let path = path::of("agent/check/deregister", id)?;
        self.execute(HttpCall::put(path, format!("service:write on the service of check `{id}`"))).await
    }

    /// Puts an instance into maintenance with `reason`, or with `None` ends it.
    /// It stays registered.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it is not registered at this agent, or any
    /// other.
    pub async fn maintenance(&self, id: &str, reason: Option<&str>) -> Result<(), Error> {
        let path = path::of("agent/service/maintenance", id)?;
        let call = HttpCall::put(path, format!("service:write on the service of `{id}`"));
        self.execute(match reason {
            Some(reason) => call.with("enable", "true").with("reason", reason),
            None => call.with("enable", "false"),
        })
        .await
    }

    /// Sends the status of a TTL check, which restarts its TTL.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the agent does not know the check and the
    /// instance has to register again, or any other.
    pub async fn update_check(&self, id: &str, status: CheckStatus, output: &str) -> Result<(), Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Update<'a> {
            status: CheckStatus,
            output: &'a str,
        }
        let path = path::of("agent/check/update", id)?;
        let call = HttpCall::put(path, format!("service:write on the service of check `{id}`"));
        self.execute(call.body(json(&Update { status, output })?)).await
    }

    /// Sends the status "passing" of a TTL check.
    ///
    /// # Errors
    /// Those of [`update_check`](Self::update_check).
    pub async fn pass_check(&self, id: &str) -> Result<(), Error> {
        let path = path::of("agent/check/pass", id)?;
        self.execute(HttpCall::put(path, format!("service:write on the service of check `{id}`"))).await
    }
}

/// The request for one service; blocks by content hash.
pub(super) fn service_call(id: &str) -> Result<HttpCall, Error> {
    Ok(HttpCall::get(path::of("agent/service", id)?, format!("service:read on the service of `{id}`")))
}

fn json(body: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(body).map_err(|e| Error::Invalid(format!("cannot be written as JSON ({e})")))
}

/// The address of this machine's interface that routes to the agent, by which
/// others on the agent's network can reach this machine. An agent on loopback
/// or a unix socket gives the loopback address: set the address explicitly
/// where such an agent serves more than one machine. Never `0.0.0.0`.
///
/// # Errors
/// [`Error::Unreachable`] when the agent's host has no address or no route.
pub async fn advertise_address(client: &Client) -> Result<IpAddr, Error> {
    let (host, port) = match &client.inner.transport.endpoint.address {
        EndpointAddress::Unix(_) => return Ok(Ipv4Addr::LOCALHOST.into()),
        EndpointAddress::Tcp { host, port, .. } => (host.as_str(), *port),
    };
    match route_to(host, port).await {
        Ok(ip) if !ip.is_unspecified() => Ok(ip),
        Ok(_) => Err(unrouted(client, "no interface routes there".to_owned())),
        Err(e) => Err(unrouted(client, e.to_string())),
    }
}

fn unrouted(client: &Client, cause: String) -> Error {
    Error::Unreachable { addr: client.shown_addr(), cause }
}

/// Connecting a UDP socket sends nothing: it only reads the routing table.
async fn route_to(host: &str, port: u16) -> std::io::Result<IpAddr> {
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, format!("`{host}` has no address"));
    for to in tokio::net::lookup_host((host, port)).await? {
        let any: SocketAddr = if to.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let routed = async {
            let socket = tokio::net::UdpSocket::bind(any).await?;
            socket.connect(to).await?;
            socket.local_addr()
        };
        match routed.await {
            Ok(local) => return Ok(local.ip()),
            Err(e) => last = e,
        }
    }
    Err(last)
}
