//! The parts of a registration that older agents do not support: such an agent
//! rejects the whole registration.

use std::{
    borrow::Cow,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use super::{CheckSpec, Client, Error, ServiceSpec, Version};

/// A part of a registration that needs a later version of Consul.
#[derive(Clone, Copy, Debug)]
enum Feature {
    Thresholds,
    Locality,
}

/// The features whose omission was logged, by [`Feature`].
#[derive(Debug, Default)]
pub(super) struct OmittedFeatures([AtomicBool; 2]);

impl Feature {
    const ALL: [Self; 2] = [Self::Thresholds, Self::Locality];

    fn name(self) -> &'static str {
        match self {
            Self::Thresholds => "the check's success_before_passing and failures_before_critical",
            Self::Locality => "the locality",
        }
    }

    /// The first version that supports it.
    fn since(self) -> (u32, u32) {
        match self {
            Self::Thresholds => (1, 7),
            Self::Locality => (1, 16),
        }
    }

    fn is_in(self, spec: &ServiceSpec) -> bool {
        match (self, &spec.check) {
            (
                Self::Thresholds,
                CheckSpec::Grpc { success_before_passing: 1, failures_before_critical: 1, .. }
                | CheckSpec::Ttl { .. },
            ) => false,
            (Self::Thresholds, CheckSpec::Grpc { .. }) => true,
            (Self::Locality, _) => spec.locality.is_some(),
        }
    }

    fn remove_from(self, spec: &mut ServiceSpec) {
        match (self, &mut spec.check) {
            (
                Self::Thresholds,
                CheckSpec::Grpc { success_before_passing: first, failures_before_critical: second, .. },
            ) => (*first, *second) = (1, 1),
            (Self::Thresholds, CheckSpec::Ttl { .. }) => {}
            (Self::Locality, _) => spec.locality = None,
        }
    }
}

impl Client {
    /// `spec` without the features that the agent is too old for, which is
    /// logged once.
    ///
    /// An agent whose version cannot be read counts as old: an instance without
    /// a locality is better than none.
    ///
    /// # Errors
    /// When the version of the agent cannot be read now.
    pub(super) async fn without_unsupported<'a>(
        &self,
        spec: &'a ServiceSpec,
    ) -> Result<Cow<'a, ServiceSpec>, Error> {
        let used = || Feature::ALL.into_iter().filter(|part| part.is_in(spec));
        if used().next().is_none() {
            return Ok(Cow::Borrowed(spec));
        }
        let version = match self.version().await {
            Err(e) if e.is_retryable() => return Err(e),
            version => version,
        };
        let mut spec_for_agent = Cow::Borrowed(spec);
        for part in used() {
            let (major, minor) = part.since();
            if !version.as_ref().is_ok_and(|version| version.at_least(major, minor)) {
                part.remove_from(spec_for_agent.to_mut());
                self.report_omitted(part, &version);
            }
        }
        Ok(spec_for_agent)
    }

    fn report_omitted(&self, part: Feature, version: &Result<Version, Error>) {
        if self.inner.omitted_features.0[part as usize].swap(true, Relaxed) {
            return;
        }
        let (addr, what, (major, minor)) = (self.addr(), part.name(), part.since());
        match version {
            Ok(version) => tracing::warn!(
                %addr,
                "the Consul agent at {addr} is {version}, so instances are registered without {what}, which needs \
                 Consul {major}.{minor}: upgrade the agent"
            ),
            Err(error) => tracing::warn!(
                %addr, %error,
                "the version of the Consul agent at {addr} cannot be read, so instances are registered without \
                 {what}, which needs Consul {major}.{minor}: {error}"
            ),
        }
    }
}
