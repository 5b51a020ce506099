//! A check as a request describes it.

use crate::decode::{DecodeError, Field, Json, fill};
use crate::duration::GoDuration;

/// The definition of a check, decoded but not yet valid.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct CheckSpec {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) notes: String,
    /// Of `check/register` only; within a service it is read and passed over.
    pub(crate) service_id: String,
    pub(crate) ttl: GoDuration,
    pub(crate) interval: GoDuration,
    pub(crate) timeout: GoDuration,
    pub(crate) reap_after: GoDuration,
    pub(crate) grpc: String,
    pub(crate) grpc_use_tls: bool,
    pub(crate) tcp: String,
    pub(crate) tcp_use_tls: bool,
    pub(crate) http: String,
    pub(crate) success_before_passing: i64,
    pub(crate) failures_before_warning: i64,
    pub(crate) failures_before_critical: i64,
    pub(crate) output_max_size: i64,
    /// What only checks that this agent does not run have.
    pub(crate) other: OtherKinds,
}

/// The fields of check types that are decoded so that they can be refused by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct OtherKinds {
    script_args: Vec<String>,
    docker: String,
    h2ping: String,
    udp: String,
    os_service: String,
    alias_node: String,
    alias_service: String,
    ignored: bool,
}

/// In which request a check stands; its id is called differently in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Within {
    Service,
    CheckRegister,
}

impl CheckSpec {
    /// Reads the members of a check.
    ///
    /// # Errors
    /// In Consul's words: an unknown field, or a value of the wrong type. `at` names the object (`.Alias.Check`).
    pub(crate) fn read(members: Vec<(String, Json)>, at: &str, within: Within) -> Result<Self, DecodeError> {
        let mut spec = Self::default();
        for (key, value) in members {
            spec.set(&key, value, at, within)?;
        }
        Ok(spec)
    }

    fn set(&mut self, key: &str, value: Json, at: &str, within: Within) -> Result<(), DecodeError> {
        let named = |name: &str| format!("{at}.Alias.{name}");
        match key.to_ascii_lowercase().as_str() {
            "id" if within == Within::CheckRegister => fill(&mut self.id, value, &named("ID")),
            "checkid" if within == Within::Service => fill(&mut self.id, value, &named("CheckID")),
            "serviceid" | "service_id" => fill(&mut self.service_id, value, &named("ServiceID")),
            "name" => fill(&mut self.name, value, &named("Name")),
            "status" => fill(&mut self.status, value, &named("Status")),
            "notes" => fill(&mut self.notes, value, &named("Notes")),
            "ttl" => fill(&mut self.ttl, value, ""),
            "interval" => fill(&mut self.interval, value, ""),
            "timeout" => fill(&mut self.timeout, value, ""),
            "deregistercriticalserviceafter" | "deregister_critical_service_after" => {
                fill(&mut self.reap_after, value, "")
            }
            "grpc" => fill(&mut self.grpc, value, &named("GRPC")),
            "grpcusetls" | "grpc_use_tls" => fill(&mut self.grpc_use_tls, value, &named("GRPCUseTLS")),
            "tcp" => fill(&mut self.tcp, value, &named("TCP")),
            "tcpusetls" | "tcp_use_tls" => fill(&mut self.tcp_use_tls, value, &named("TCPUseTLS")),
            "http" => fill(&mut self.http, value, &named("HTTP")),
            "successbeforepassing" => {
                fill(&mut self.success_before_passing, value, &named("SuccessBeforePassing"))
            }
            "failuresbeforewarning" => {
                fill(&mut self.failures_before_warning, value, &named("FailuresBeforeWarning"))
            }
            "failuresbeforecritical" => {
                fill(&mut self.failures_before_critical, value, &named("FailuresBeforeCritical"))
            }
            "outputmaxsize" => fill(&mut self.output_max_size, value, &named("OutputMaxSize")),
            _ => self.other.set(key, value, &named, within),
        }
    }

    /// Whether the request said nothing at all about the check.
    pub(crate) fn is_empty(&self) -> bool {
        let nothing = Self { service_id: self.service_id.clone(), ..Self::default() };
        *self == nothing
    }

    /// Says what is wrong with the check, in Consul's words.
    pub(crate) fn validate(&self) -> Result<(), &'static str> {
        let other = &self.other;
        let probes = [&self.grpc, &self.tcp, &self.http, &other.h2ping, &other.udp, &other.os_service]
            .iter()
            .any(|target| !target.is_empty());
        let needs_interval = probes || !other.script_args.is_empty();
        let alias = !other.alias_node.is_empty() || !other.alias_service.is_empty();
        if self.interval.is_positive() && self.ttl.is_positive() {
            return Err("Interval and TTL cannot both be specified");
        }
        if needs_interval && !self.interval.is_positive() {
            return Err("Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks");
        }
        if needs_interval && alias {
            return Err("Interval cannot be set for Alias checks");
        }
        if alias && self.ttl.is_positive() {
            return Err("TTL must be not be set for Alias checks");
        }
        if !needs_interval && !alias && !self.ttl.is_positive() {
            return Err("TTL must be > 0 for TTL checks");
        }
        if self.output_max_size < 0 {
            return Err("MaxOutputMaxSize must be positive");
        }
        if self.failures_before_warning > self.failures_before_critical {
            return Err("FailuresBeforeWarning can't be higher than FailuresBeforeCritical");
        }
        Ok(())
    }

    /// The type of a valid check, as `/v1/agent/checks` shows it.
    pub(crate) fn kind(&self) -> &'static str {
        let other = &self.other;
        match () {
            () if !self.grpc.is_empty() => "grpc",
            () if !self.http.is_empty() => "http",
            () if self.ttl.is_positive() => "ttl",
            () if !self.tcp.is_empty() => "tcp",
            () if !other.udp.is_empty() => "udp",
            () if !other.alias_node.is_empty() || !other.alias_service.is_empty() => "alias",
            () if !other.docker.is_empty() => "docker",
            () if !other.script_args.is_empty() => "script",
            () if !other.h2ping.is_empty() => "h2ping",
            () => "os_service",
        }
    }

    /// The longest output to keep, in bytes.
    pub(super) fn max_output(&self) -> usize {
        match usize::try_from(self.output_max_size) {
            Ok(asked @ 1..) => asked.min(super::MAX_OUTPUT),
            _ => super::MAX_OUTPUT,
        }
    }
}

impl OtherKinds {
    fn set(
        &mut self,
        key: &str,
        value: Json,
        named: &dyn Fn(&str) -> String,
        within: Within,
    ) -> Result<(), DecodeError> {
        let mut text = String::new();
        let mut headers = Headers;
        match key.to_ascii_lowercase().as_str() {
            "scriptargs" | "script_args" | "args" => fill(&mut self.script_args, value, &named("ScriptArgs")),
            "dockercontainerid" | "docker_container_id" => {
                fill(&mut self.docker, value, &named("DockerContainerID"))
            }
            "h2ping" => fill(&mut self.h2ping, value, &named("H2PING")),
            "udp" => fill(&mut self.udp, value, &named("UDP")),
            "osservice" => fill(&mut self.os_service, value, &named("OSService")),
            "aliasnode" => fill(&mut self.alias_node, value, &named("AliasNode")),
            "aliasservice" => fill(&mut self.alias_service, value, &named("AliasService")),
            "h2pingusetls" | "h2ping_use_tls" => fill(&mut self.ignored, value, &named("H2PingUseTLS")),
            "tlsskipverify" | "tls_skip_verify" => fill(&mut self.ignored, value, &named("TLSSkipVerify")),
            "disableredirects" => fill(&mut self.ignored, value, &named("DisableRedirects")),
            "tlsservername" | "tls_server_name" => fill(&mut text, value, &named("TLSServerName")),
            "shell" => fill(&mut text, value, &named("Shell")),
            "method" => fill(&mut text, value, &named("Method")),
            "body" => fill(&mut text, value, &named("Body")),
            "proxyhttp" if within == Within::Service => fill(&mut text, value, &named("ProxyHTTP")),
            "proxygrpc" if within == Within::Service => fill(&mut text, value, &named("ProxyGRPC")),
            "token" if within == Within::CheckRegister => fill(&mut text, value, &named("Token")),
            "header" => fill(&mut headers, value, &named("Header")),
            _ => Err(DecodeError::unknown_field(key)),
        }
    }
}

/// HTTP headers of a check, each name with its values; read for their form only.
#[derive(Debug)]
struct Headers;

impl Field for Headers {
    fn read(value: Json, at: &str) -> Result<Self, DecodeError> {
        let Json::Object(members) = value else {
            return Err(DecodeError::mismatch(&value, at, "map[string][]string"));
        };
        for (_, values) in members {
            Option::<Vec<String>>::read(values, at)?;
        }
        Ok(Self)
    }
}
