//! What a process measures, as a page for Prometheus or a person with `curl`.
//!
//! Its mesh counts whatever is measured; this gives it a meter, and makes the
//! page out of what the meter was told. Without it nothing is counted but what
//! `/debug/mesh` shows anyway.

use anyhow::Context;
use opentelemetry::{KeyValue, metrics::MeterProvider};
use opentelemetry_sdk::{
    Resource,
    metrics::{Instrument, SdkMeterProvider, Stream},
};
use prometheus::{Registry, TextEncoder};
use registry_client::MeshBuilder;

/// The most series of one instrument; those beyond are counted as one. A service
/// calls few others, each with at most seventeen statuses. The SDK makes room
/// for all of them at once, and its 2,000 would take several MiB.
const SERIES: usize = 200;

/// The metrics of one process, by its mesh.
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
    /// Of the service of that name and version, which the series `target_info`
    /// tells.
    ///
    /// # Errors
    /// When the exporter cannot be made.
    pub fn of(service: &'static str, version: &'static str) -> anyhow::Result<Self> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            // One meter measures all: who reads gains nothing by its name.
            .scope_info_enabled(false)
            .build()
            .context("could not make the exporter of metrics")?;
        let who = [KeyValue::new("service.name", service), KeyValue::new("service.version", version)];
        let resource = Resource::builder_empty().with_attributes(who).build();
        let bounded = |_: &Instrument| Stream::builder().with_cardinality_limit(SERIES).build().ok();
        let provider = SdkMeterProvider::builder().with_reader(exporter).with_resource(resource);
        Ok(Self { provider: provider.with_view(bounded).build(), registry })
    }

    /// Measures `mesh`, and all that measures by its meter, and shows it as
    /// `/metrics` where that tells of itself ([`registry_client::admin`]). The
    /// mesh keeps what is needed for it.
    pub fn measure(self, mesh: MeshBuilder) -> MeshBuilder {
        let meter = self.provider.meter("consort");
        mesh.meter(meter).metrics_page(move || self.render())
    }

    /// Everything that is measured, now, in Prometheus' text format.
    fn render(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
