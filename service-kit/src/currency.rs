//! Currencies with their number of decimals.

use std::{fmt, str::FromStr};

/// A currency of ISO 4217, for example `EUR`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency {
    code: &'static str,
    digits: u32,
}

/// The error for a text that is no currency code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the currency code is not one of ISO 4217, such as EUR")]
pub struct UnknownCurrency;

impl Currency {
    /// The number of decimals of amounts: 2 for EUR, 0 for JPY.
    #[must_use]
    pub fn digits(self) -> u32 {
        self.digits
    }

    /// The number of minor units in one unit: 100 for EUR, 1 for JPY.
    #[must_use]
    pub fn minor_per_unit(self) -> i64 {
        10_i64.pow(self.digits)
    }

    /// The code of three letters.
    #[must_use]
    pub fn code(self) -> &'static str {
        self.code
    }
}

impl FromStr for Currency {
    type Err = UnknownCurrency;

    fn from_str(text: &str) -> Result<Self, UnknownCurrency> {
        for (digits, codes) in CODES {
            if let Some(code) = codes.split_ascii_whitespace().find(|code| *code == text) {
                return Ok(Self { code, digits });
            }
        }
        Err(UnknownCurrency)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code)
    }
}

/// The circulating currencies of ISO 4217 by their number of decimals, the
/// commonest first since they are searched in this order.
const CODES: [(u32, &str); 3] = [
    (
        2,
        "EUR USD GBP CHF AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP \
         BYN BZD CAD CDF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB FJD FKP GEL GHS GIP GMD GTQ GYD \
         HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD \
         MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON \
         RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD \
         TZS UAH UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG",
    ),
    (0, "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"),
    (3, "BHD IQD JOD KWD LYD OMR TND"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_three_capitals_and_stands_once() {
        let mut codes: Vec<_> = CODES.iter().flat_map(|(_, codes)| codes.split_ascii_whitespace()).collect();
        assert!(codes.iter().all(|code| code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase())));
        let all = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), all);
    }
}
