//! The metrics of a process, as a page for Prometheus or `curl`.
//!
//! This module gives the mesh a meter, and renders the page. Without it only the
//! counters of `/debug/mesh` are collected.

use anyhow::Context;
use opentelemetry::{KeyValue, metrics::MeterProvider};
use opentelemetry_sdk::{
    Resource,
    metrics::{Instrument, SdkMeterProvider, Stream},
};
use prometheus::{Registry, TextEncoder};
use registry_client::MeshBuilder;

/// The maximum number of series of one instrument; further ones are counted as
/// one. A service calls few others, each with at most seventeen statuses. The SDK
/// allocates all of them at once, and its default of 2,000 takes several MiB.
const MAX_SERIES: usize = 200;

/// The metrics of one process.
///
/// ```
/// # fn build() -> anyhow::Result<()> {
/// use registry_client::MeshBuilder;
/// use service_kit::metrics::Metrics;
///
/// let mesh = Metrics::of("cart-service", "1.0.0")?.measure(MeshBuilder::from_env()?).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Metrics {
    provider: SdkMeterProvider,
    registry: Registry,
}

impl Metrics {
    /// Makes the metrics of the service of that name and version, which the series
    /// `target_info` shows.
    ///
    /// # Errors
    /// When the exporter cannot be created.
    pub fn of(service: &'static str, version: &'static str) -> anyhow::Result<Self> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            // There is only one meter, so its name would add nothing.
            .scope_info_enabled(false)
            .build()
            .context("could not create the exporter of metrics")?;
        let attributes = [KeyValue::new("service.name", service), KeyValue::new("service.version", version)];
        let resource = Resource::builder_empty().with_attributes(attributes).build();
        let bounded = |_: &Instrument| Stream::builder().with_cardinality_limit(MAX_SERIES).build().ok();
        let provider = SdkMeterProvider::builder().with_reader(exporter).with_resource(resource);
        Ok(Self { provider: provider.with_view(bounded).build(), registry })
    }

    /// Gives `mesh` the meter, and serves the page as `/metrics` of its admin
    /// interface ([`registry_client::admin`]). The mesh keeps the exporter alive.
    pub fn measure(self, mesh: MeshBuilder) -> MeshBuilder {
        let meter = self.provider.meter("consort");
        mesh.meter(meter).metrics_page(move || self.render())
    }

    /// Renders the current values in Prometheus' text format.
    fn render(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
