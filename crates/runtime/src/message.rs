//! The messages of the API that consist of a runtime key and a default value.

use outrider_config::api::envoy::config::core::v3::RuntimeDouble as RuntimeDoubleMessage;
use outrider_config::api::envoy::config::core::v3::RuntimeFractionalPercent;
use outrider_config::api::envoy::config::core::v3::RuntimeUInt32;
use outrider_config::api::envoy::r#type::v3::FractionalPercent;
use outrider_config::api::envoy::r#type::v3::fractional_percent::DenominatorType;

use crate::Snapshot;

/// A share of the requests (`FractionalPercent`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    numerator: u32,
    denominator: u32,
}

impl Fraction {
    /// `numerator` of `denominator`, which is not 0.
    pub(crate) fn new(numerator: u32, denominator: u32) -> Fraction {
        Fraction {
            numerator,
            denominator,
        }
    }

    pub(crate) fn percent(percent: u32) -> Fraction {
        Fraction::new(percent, 100)
    }

    /// The share in the message.
    #[must_use]
    pub fn of(message: &FractionalPercent) -> Fraction {
        let denominator = match message.denominator() {
            DenominatorType::Hundred => 100,
            DenominatorType::TenThousand => 10_000,
            DenominatorType::Million => 1_000_000,
        };
        Fraction::new(message.numerator, denominator)
    }

    /// The same share with another numerator.
    #[must_use]
    pub fn with_numerator(self, numerator: u64) -> Fraction {
        Fraction {
            numerator: u32::try_from(numerator).unwrap_or(u32::MAX),
            ..self
        }
    }

    /// The numerator, which is divided by the denominator.
    #[must_use]
    pub fn numerator(self) -> u32 {
        self.numerator
    }

    /// Whether a request with this random number is in the share.
    #[must_use]
    pub fn holds(self, random: u64) -> bool {
        random % u64::from(self.denominator) < u64::from(self.numerator)
    }
}

/// A share that a runtime key overrides (`RuntimeFractionalPercent`).
#[derive(Clone, Debug)]
pub struct RuntimeFraction {
    key: Option<Box<str>>,
    default: Fraction,
}

impl RuntimeFraction {
    /// The share in the message.
    #[must_use]
    pub fn of(message: &RuntimeFractionalPercent) -> RuntimeFraction {
        RuntimeFraction {
            key: key(&message.runtime_key),
            default: Fraction::of(&message.default_value.unwrap_or_default()),
        }
    }

    /// Whether a request with this random number is in the share.
    #[must_use]
    pub fn holds(&self, runtime: Option<&Snapshot>, random: u64) -> bool {
        let set = self.key.as_ref().zip(runtime);
        let set = set.and_then(|(key, runtime)| runtime.fraction(key));
        set.unwrap_or(self.default).holds(random)
    }
}

/// A number that a runtime key overrides (`RuntimeUInt32`).
#[derive(Clone, Debug)]
pub struct RuntimeNumber {
    key: Option<Box<str>>,
    default: u64,
}

impl RuntimeNumber {
    /// A number that is `default` unless the key is set; an empty key never is.
    #[must_use]
    pub fn new(runtime_key: &str, default: u64) -> RuntimeNumber {
        RuntimeNumber {
            key: key(runtime_key),
            default,
        }
    }

    /// The number in the message.
    #[must_use]
    pub fn of(message: &RuntimeUInt32) -> RuntimeNumber {
        RuntimeNumber::new(&message.runtime_key, message.default_value.into())
    }

    /// The number.
    #[must_use]
    pub fn value(&self, runtime: Option<&Snapshot>) -> u64 {
        let set = self.key.as_ref().zip(runtime);
        let set = set.and_then(|(key, runtime)| runtime.number(key));
        set.unwrap_or(self.default)
    }
}

/// A number with decimals that a runtime key overrides (`RuntimeDouble`).
#[derive(Clone, Debug)]
pub struct RuntimeDouble {
    key: Option<Box<str>>,
    default: f64,
}

impl RuntimeDouble {
    /// The number in the message.
    #[must_use]
    pub fn of(message: &RuntimeDoubleMessage) -> RuntimeDouble {
        RuntimeDouble {
            key: key(&message.runtime_key),
            default: message.default_value,
        }
    }

    /// The number.
    #[must_use]
    pub fn value(&self, runtime: Option<&Snapshot>) -> f64 {
        let set = self.key.as_ref().zip(runtime);
        let set = set.and_then(|(key, runtime)| runtime.double(key));
        set.unwrap_or(self.default)
    }
}

fn key(name: &str) -> Option<Box<str>> {
    (!name.is_empty()).then(|| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_takes_its_share_of_random_numbers() {
        let fraction = Fraction::of(&FractionalPercent {
            numerator: 25,
            denominator: DenominatorType::TenThousand.into(),
        });
        let taken = (0..20_000).filter(|random| fraction.holds(*random)).count();
        assert_eq!(taken, 50);
    }

    #[test]
    fn a_key_that_is_set_overrides_the_default() {
        let snapshot = Snapshot::of([("share", "100"), ("number", "7"), ("other", "text")]);
        let share = |runtime_key: &str| RuntimeFraction {
            key: key(runtime_key),
            default: Fraction::percent(0),
        };
        let holds = |key: &str| share(key).holds(Some(&snapshot), 99);
        assert!(holds("share") && !holds("other") && !holds("absent") && !holds(""));
        assert!(!share("share").holds(None, 99));
        let number = |key: &str| RuntimeNumber::new(key, 5).value(Some(&snapshot));
        assert_eq!((number("number"), number("other"), number("")), (7, 5, 5));
    }
}
