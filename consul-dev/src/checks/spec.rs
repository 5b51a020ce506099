//! The definition of a check in a request.

use crate::decode::{DecodeError, Field, Json, read_into};
use crate::duration::GoDuration;

/// The definition of a check, decoded but not yet valid.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct CheckSpec {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) notes: String,
    /// The service of a check in `check/register`; ignored within a service.
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
    /// The fields of check types that this agent does not run.
    pub(crate) other: OtherKinds,
}

/// The fields of check types that are decoded so that they can be rejected by
/// name.
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

/// The request that contains a check; the name of its id depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckContext {
    Service,
    CheckRegister,
}

impl CheckSpec {
    /// Reads the members of a check.
    ///
    /// # Errors
    /// In Consul's words: an unknown field, or a value of the wrong type. `at` names the object (`.Alias.Check`).
    pub(crate) fn read(
        members: Vec<(String, Json)>,
        at: &str,
        within: CheckContext,
    ) -> Result<Self, DecodeError> {
        let mut spec = Self::default();
        for (key, value) in members {
            spec.set(&key, value, at, within)?;
        }
        Ok(spec)
    }

    fn set(&mut self, key: &str, value: Json, at: &str, within: CheckContext) -> Result<(), DecodeError> {
        let field_name = |name: &str| format!("{at}.Alias.{name}");
        match key.to_ascii_lowercase().as_str() {
            "id" if within == CheckContext::CheckRegister => {
                read_into(&mut self.id, value, &field_name("ID"))
            }
            "checkid" if within == CheckContext::Service => {
                read_into(&mut self.id, value, &field_name("CheckID"))
            }
            "serviceid" | "service_id" => read_into(&mut self.service_id, value, &field_name("ServiceID")),
            "name" => read_into(&mut self.name, value, &field_name("Name")),
            "status" => read_into(&mut self.status, value, &field_name("Status")),
            "notes" => read_into(&mut self.notes, value, &field_name("Notes")),
            "ttl" => read_into(&mut self.ttl, value, ""),
            "interval" => read_into(&mut self.interval, value, ""),
            "timeout" => read_into(&mut self.timeout, value, ""),
            "deregistercriticalserviceafter" | "deregister_critical_service_after" => {
                read_into(&mut self.reap_after, value, "")
            }
            "grpc" => read_into(&mut self.grpc, value, &field_name("GRPC")),
            "grpcusetls" | "grpc_use_tls" => {
                read_into(&mut self.grpc_use_tls, value, &field_name("GRPCUseTLS"))
            }
            "tcp" => read_into(&mut self.tcp, value, &field_name("TCP")),
            "tcpusetls" | "tcp_use_tls" => read_into(&mut self.tcp_use_tls, value, &field_name("TCPUseTLS")),
            "http" => read_into(&mut self.http, value, &field_name("HTTP")),
            "successbeforepassing" => {
                read_into(&mut self.success_before_passing, value, &field_name("SuccessBeforePassing"))
            }
            "failuresbeforewarning" => {
                read_into(&mut self.failures_before_warning, value, &field_name("FailuresBeforeWarning"))
            }
            "failuresbeforecritical" => {
                read_into(&mut self.failures_before_critical, value, &field_name("FailuresBeforeCritical"))
            }
            "outputmaxsize" => read_into(&mut self.output_max_size, value, &field_name("OutputMaxSize")),
            _ => self.other.set(key, value, &field_name, within),
        }
    }

    /// Returns whether the request has no field of the check.
    pub(crate) fn is_empty(&self) -> bool {
        let nothing = Self { service_id: self.service_id.clone(), ..Self::default() };
        *self == nothing
    }

    /// Validates the check, with Consul's error texts.
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
            Ok(requested @ 1..) => requested.min(super::MAX_OUTPUT),
            _ => super::MAX_OUTPUT,
        }
    }
}

impl OtherKinds {
    fn set(
        &mut self,
        key: &str,
        value: Json,
        field_name: &dyn Fn(&str) -> String,
        within: CheckContext,
    ) -> Result<(), DecodeError> {
        let mut text = String::new();
        let mut headers = Headers;
        match key.to_ascii_lowercase().as_str() {
            "scriptargs" | "script_args" | "args" => {
                read_into(&mut self.script_args, value, &field_name("ScriptArgs"))
            }
            "dockercontainerid" | "docker_container_id" => {
                read_into(&mut self.docker, value, &field_name("DockerContainerID"))
            }
            "h2ping" => read_into(&mut self.h2ping, value, &field_name("H2PING")),
            "udp" => read_into(&mut self.udp, value, &field_name("UDP")),
            "osservice" => read_into(&mut self.os_service, value, &field_name("OSService")),
            "aliasnode" => read_into(&mut self.alias_node, value, &field_name("AliasNode")),
            "aliasservice" => read_into(&mut self.alias_service, value, &field_name("AliasService")),
            "h2pingusetls" | "h2ping_use_tls" => {
                read_into(&mut self.ignored, value, &field_name("H2PingUseTLS"))
            }
            "tlsskipverify" | "tls_skip_verify" => {
                read_into(&mut self.ignored, value, &field_name("TLSSkipVerify"))
            }
            "disableredirects" => read_into(&mut self.ignored, value, &field_name("DisableRedirects")),
            "tlsservername" | "tls_server_name" => read_into(&mut text, value, &field_name("TLSServerName")),
            "shell" => read_into(&mut text, value, &field_name("Shell")),
            "method" => read_into(&mut text, value, &field_name("Method")),
            "body" => read_into(&mut text, value, &field_name("Body")),
            "proxyhttp" if within == CheckContext::Service => {
                read_into(&mut text, value, &field_name("ProxyHTTP"))
            }
            "proxygrpc" if within == CheckContext::Service => {
                read_into(&mut text, value, &field_name("ProxyGRPC"))
            }
            "token" if within == CheckContext::CheckRegister => {
                read_into(&mut text, value, &field_name("Token"))
            }
            "header" => read_into(&mut headers, value, &field_name("Header")),
            _ => Err(DecodeError::unknown_field(key)),
        }
    }
}

/// The HTTP headers of a check, each name with its values; only validated.
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
