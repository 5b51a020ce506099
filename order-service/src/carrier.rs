//! The carrier: a simulation of a parcel service.
//!
//! The order's id is the key of a booking: booking again returns the same tracking
//! number, and a refusal is final. Both follow from the id alone, so nothing is
//! stored. The setting `CARRIER_FAULTS` injects faults: a list of `NAME=SHARE`, such
//! as `refuse=0.1,unavailable=0.2,slow=0.2:2s,lost=0.1`.
//!
//! - `refuse`: this share of orders is refused, each for ever
//! - `unavailable`: this share of calls does nothing and fails
//! - `lost`: this share of calls books, and fails nevertheless
//! - `slow`: this share of calls takes the time after the colon

use std::{str::FromStr, time::Duration};

use service_kit::error::Fault;
use tokio::time::sleep;
use tonic::Code;

use crate::domain::{Order, OrderId};

/// A carrier. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Carrier {
    faults: Faults,
}

/// The faults of a carrier; each share is 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// The share of orders that are refused.
    pub refuse: f64,
    /// The share of calls that do nothing and fail.
    pub unavailable: f64,
    /// The share of calls that book and fail.
    pub lost: f64,
    /// The share of calls that are slow.
    pub slow: f64,
    /// The delay of slow calls.
    pub delay: Duration,
}

/// The result of a booking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Booking {
    /// The carrier accepts the parcel, under this tracking number.
    Accepted(String),
    /// The carrier refuses it for ever.
    Refused,
}

impl Carrier {
    /// A carrier with these faults.
    #[must_use]
    pub fn new(faults: Faults) -> Self {
        Self { faults }
    }

    /// Books an order. Repeated calls return the same result.
    ///
    /// # Errors
    /// UNAVAILABLE: it may have been booked.
    ///
    /// # Cancel safety
    /// It may have been booked.
    pub async fn book(&self, order: &Order) -> Result<Booking, Fault> {
        let Faults { refuse, unavailable, lost, slow, delay } = self.faults;
        if fastrand::f64() < slow {
            sleep(delay).await;
        }
        // Nothing is stored, so a lost booking and one that was never made look the
        // same.
        if fastrand::f64() < unavailable || fastrand::f64() < lost {
            let words = "the carrier is not available right now; try again";
            return Err(Fault::new(Code::Unavailable, "CARRIER_UNAVAILABLE", words));
        }
        let hash = hash(order.id());
        // The 2^32 hashes are uniformly distributed.
        if f64::from(hash) < refuse * f64::from(u32::MAX) {
            return Ok(Booking::Refused);
        }
        Ok(Booking::Accepted(format!("CC{:08X}{:04X}", hash, order.facts().lines.len())))
    }
}

/// A uniformly distributed hash of an order's id (FNV-1a).
fn hash(id: OrderId) -> u32 {
    let hash = id
        .to_string()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    // The last bytes of an FNV hash stir the high bits too little.
    (hash ^ (hash >> 15)).wrapping_mul(0x2c1b_3c6d)
}

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for fault in text.split(',').map(str::trim).filter(|fault| !fault.is_empty()) {
            let (name, share) =
                fault.split_once('=').ok_or_else(|| format!("`{fault}` is not NAME=SHARE"))?;
            let (share, delay) = match share.split_once(':') {
                Some((share, delay)) => (share, Some(delay)),
                None => (share, None),
            };
            let field = match (name, delay) {
                ("refuse", None) => &mut faults.refuse,
                ("unavailable", None) => &mut faults.unavailable,
                ("lost", None) => &mut faults.lost,
                ("slow", Some(delay)) => {
                    faults.delay = seconds(delay)
                        .ok_or_else(|| format!("`{delay}` is not a time such as 2s or 200ms"))?;
                    &mut faults.slow
                }
                ("slow", None) => return Err("`slow` needs a time, such as slow=0.2:2s".into()),
                _ => return Err(format!("`{fault}` is none of refuse, unavailable, lost, slow")),
            };
            *field = match share.parse() {
                Ok(share @ 0.0..=1.0) => share,
                _ => return Err(format!("the share `{share}` of `{name}` is not 0 to 1")),
            };
        }
        Ok(faults)
    }
}

fn seconds(text: &str) -> Option<Duration> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s')?, 1_000),
    };
    let millis = number.parse::<u32>().ok()?.checked_mul(unit)?;
    Some(Duration::from_millis(millis.into()))
}

#[cfg(test)]
mod tests {
    use service_kit::timestamp::Timestamp;

    use super::*;

    #[test]
    fn faults_are_parsed_and_invalid_ones_are_named() {
        let faults: Faults = "refuse=0.1, unavailable=1,slow=0.2:2s,lost=0".parse().unwrap();
        let expected =
            Faults { refuse: 0.1, unavailable: 1.0, lost: 0.0, slow: 0.2, delay: Duration::from_secs(2) };
        assert_eq!(faults, expected);
        assert_eq!("".parse(), Ok(Faults::default()));
        assert_eq!("slow=1:50ms".parse::<Faults>().unwrap().delay, Duration::from_millis(50));
        for bad in
            ["x=1", "refuse", "refuse=2", "refuse=-1", "refuse=NaN", "slow=1", "slow=1:2h", "lost=1:2s"]
        {
            assert!(bad.parse::<Faults>().is_err(), "{bad}");
        }
    }

    #[test]
    fn refusals_are_spread_evenly_over_orders() {
        let now = Timestamp::now().micros();
        let ids = (0..10_000).map(|later| OrderId::new(Timestamp::of_micros(now + later)));
        let low = ids.filter(|id| f64::from(hash(*id)) < 0.1 * f64::from(u32::MAX)).count();
        assert!((800..1_200).contains(&low), "{low}");
    }
}
