//! Wall time and CPU of every variant, in turns, so that a noisy moment hits
//! all alike; what counts is the median of each round's ratio.

use std::{error::Error, fs, time::Instant};

use crate::variant::{Open, Variant};

const CALLERS: [usize; 3] = [1, 64, 256];

/// One measurement.
#[derive(Clone, Copy)]
struct Cost {
    wall: f64,
    cpu: f64,
}

/// Runs `rounds` rounds; a Markdown table of one row per variant and number
/// of callers: microseconds per call, and the ratios to tonic's channel.
pub(crate) async fn run(rounds: usize, ports: &[u16]) -> Result<String, Box<dyn Error + Send + Sync>> {
    let mut open = Vec::new();
    for variant in Variant::ALL {
        open.push(variant.open(ports).await?);
    }
    let mut rows = Vec::new();
    for callers in CALLERS {
        let count = if callers == 1 { 4_000 } else { 20_000 / callers * callers };
        let mut costs = vec![Vec::new(); Variant::ALL.len()];
        for _ in 0..rounds {
            for (costs, open) in costs.iter_mut().zip(&open) {
                costs.push(measure(open, count, callers).await?);
            }
        }
        for (variant, own) in Variant::ALL.into_iter().zip(&costs) {
            rows.push(row(variant, callers, own, &costs[0]));
        }
    }
    let head = "| callers | channel | wall µs/call | client CPU µs/call | wall ratio | CPU ratio |\n|---|---|---|---|---|---|";
    Ok(format!("{head}\n{}", rows.join("\n")))
}

async fn measure(open: &Open, count: usize, callers: usize) -> Result<Cost, Box<dyn Error + Send + Sync>> {
    let (wall, cpu) = (Instant::now(), cpu_micros()?);
    open.calls(count, callers).await?;
    let calls = count as f64;
    Ok(Cost { wall: wall.elapsed().as_secs_f64() * 1e6 / calls, cpu: (cpu_micros()? - cpu) / calls })
}

/// Microseconds this thread has run.
fn cpu_micros() -> Result<f64, Box<dyn Error + Send + Sync>> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos: u64 = text.split(' ').next().ok_or("schedstat is empty")?.parse()?;
    Ok(nanos as f64 / 1e3)
}

fn row(variant: Variant, callers: usize, own: &[Cost], tonic: &[Cost]) -> String {
    let of = |costs: &[Cost], value: fn(&Cost) -> f64| median(costs.iter().map(value).collect());
    let ratio =
        |value: fn(&Cost) -> f64| median(own.iter().zip(tonic).map(|(a, b)| value(a) / value(b)).collect());
    format!(
        "| {callers} | {} | {:.2} | {:.2} | {:.2} | {:.2} |",
        variant.name(),
        of(own, |c| c.wall),
        of(own, |c| c.cpu),
        ratio(|c| c.wall),
        ratio(|c| c.cpu),
    )
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
