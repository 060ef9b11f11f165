//! Groups: structs of stats that the renderers can enumerate.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;

use crate::Counter;
use crate::Gauge;
use crate::Histogram;
use crate::SharedCounter;
use crate::SharedGauge;
use crate::TextReadout;

/// A struct of stats, declared with [`group!`](crate::group!).
pub trait Group: Any + Send + Sync {
    /// Passes every stat of the group to `visitor`, in the order of declaration.
    fn visit(&self, visitor: &mut Visitor<'_>);
}

/// What a field of a group can be: a metric, a family of metrics, or another group.
pub trait Stat {
    /// Passes this stat, called `name` in its group, to `visitor`.
    fn visit_as(&self, name: &'static str, visitor: &mut Visitor<'_>);
}

/// A metric that is passed to a visitor.
#[derive(Clone, Copy, Debug)]
pub enum Metric<'a> {
    /// See [`Counter`].
    Counter(&'a Counter),
    /// See [`Gauge`].
    Gauge(&'a Gauge),
    /// See [`Histogram`].
    Histogram(&'a Histogram),
    /// See [`TextReadout`].
    Text(&'a TextReadout),
}

/// Passes each metric of a group to a function, with its dotted name relative to the scope.
pub struct Visitor<'a> {
    name: String,
    see: &'a mut dyn FnMut(&str, Metric<'_>),
}

impl<'a> Visitor<'a> {
    /// A visitor at the top of a group.
    pub fn new(see: &'a mut dyn FnMut(&str, Metric<'_>)) -> Self {
        Self {
            name: String::with_capacity(64),
            see,
        }
    }

    /// Passes on `metric` as `name`.
    pub fn metric(&mut self, name: &str, metric: Metric<'_>) {
        let outer = self.push(name);
        (self.see)(&self.name, metric);
        self.name.truncate(outer);
    }

    /// Prefixes the metrics that `inside` passes on with `name` and a dot. An empty name adds nothing.
    pub fn below(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        let outer = self.push(name);
        inside(self);
        self.name.truncate(outer);
    }

    /// Passes on `metric` as `<name>_<suffix>`.
    pub(crate) fn member(&mut self, name: &str, suffix: fmt::Arguments<'_>, metric: Metric<'_>) {
        let outer = self.push(name);
        self.name.push('_');
        fmt::Write::write_fmt(&mut self.name, suffix).unwrap_or_default(); // writing to a String cannot fail
        (self.see)(&self.name, metric);
        self.name.truncate(outer);
    }

    fn push(&mut self, name: &str) -> usize {
        let outer = self.name.len();
        if outer > 0 && !name.is_empty() {
            self.name.push('.');
        }
        self.name.push_str(name);
        outer
    }
}

impl fmt::Debug for Visitor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visitor")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

macro_rules! metric {
    ($($ty:ident => $variant:ident),*) => {$(
        impl Stat for $ty {
            fn visit_as(&self, name: &'static str, visitor: &mut Visitor<'_>) {
                visitor.metric(name, Metric::$variant(self));
            }
        }
    )*};
}
metric!(Counter => Counter, Gauge => Gauge, Histogram => Histogram, TextReadout => Text);

impl Stat for SharedCounter {
    fn visit_as(&self, name: &'static str, visitor: &mut Visitor<'_>) {
        self.0.visit_as(name, visitor);
    }
}

impl Stat for SharedGauge {
    fn visit_as(&self, name: &'static str, visitor: &mut Visitor<'_>) {
        self.0.visit_as(name, visitor);
    }
}

/// A part of a group that is created, and listed, only when first used, such as a cluster's `external.*`.
#[derive(Debug)]
pub struct Lazy<G>(OnceLock<Box<G>>);

impl<G> Default for Lazy<G> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<G: Default> Lazy<G> {
    /// Returns the part; creates it on first use.
    pub fn get(&self) -> &G {
        self.0.get_or_init(Box::default)
    }
}

impl<G: Stat> Stat for Lazy<G> {
    fn visit_as(&self, name: &'static str, visitor: &mut Visitor<'_>) {
        if let Some(part) = self.0.get() {
            part.visit_as(name, visitor);
        }
    }
}

/// Adds one to a gauge until it is dropped. Created by a group's `hold`.
#[must_use = "the gauge goes down again when this is dropped"]
pub struct HeldGauge<G> {
    group: Arc<G>,
    gauge: fn(&G) -> &Gauge,
}

impl<G> HeldGauge<G> {
    /// Adds one to a gauge of `group` until the result is dropped.
    pub fn new(group: Arc<G>, gauge: fn(&G) -> &Gauge) -> Self {
        gauge(&group).inc();
        Self { group, gauge }
    }
}

impl<G> Drop for HeldGauge<G> {
    fn drop(&mut self) {
        (self.gauge)(&self.group).dec();
    }
}

impl<G> fmt::Debug for HeldGauge<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeldGauge")
    }
}

/// Declares a group of stats: a struct whose fields are the stats. They are listed under the fields' names, or under
/// `#[name("…")]`, which may contain dots.
///
/// A field's type is a [`Counter`], [`Gauge`], [`Histogram`], [`TextReadout`], [`ResponseCodes`](crate::ResponseCodes)
/// or [`ResponseClasses`](crate::ResponseClasses) (which list `<field>_<code>`), another group (which lists
/// `<field>.<stat>`; with `#[name("")]` only `<stat>`), or [`Lazy`] around one of these.
#[macro_export]
macro_rules! group {
    ($(#[$meta:meta])* $vis:vis struct $group:ident {
        $($(#[doc = $doc:literal])* $(#[name($name:literal)])? $field:ident : $ty:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        $vis struct $group {
            $(
                #[doc = concat!("`", $crate::group!(@name $field $($name)?), "`")]
                $(#[doc = $doc])*
                pub $field: $ty,
            )*
        }

        impl $crate::Group for $group {
            fn visit(&self, visitor: &mut $crate::Visitor<'_>) {
                $($crate::Stat::visit_as(&self.$field, $crate::group!(@name $field $($name)?), visitor);)*
            }
        }

        impl $crate::Stat for $group {
            fn visit_as(&self, name: &'static str, visitor: &mut $crate::Visitor<'_>) {
                visitor.below(name, |visitor| $crate::Group::visit(self, visitor));
            }
        }

        impl $group {
            /// Adds one to `gauge` until the result is dropped.
            #[allow(dead_code, unreachable_pub, reason = "not every group has a gauge to hold, or is public")]
            pub fn hold(
                self: &::std::sync::Arc<Self>,
                gauge: fn(&Self) -> &$crate::Gauge,
            ) -> $crate::HeldGauge<Self> {
                $crate::HeldGauge::new(::std::sync::Arc::clone(self), gauge)
            }
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $name:literal) => { $name };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ResponseClasses;
    use crate::ResponseCodes;

    crate::group! {
        /// `breaker.*`
        struct SampleBreaker { cx_open: Gauge }
    }

    crate::group! {
        /// `x.*`
        struct NestedSample {
            total: Counter,
            #[name("circuit_breakers.default")]
            breaker: SampleBreaker,
            /// Responses.
            rq: ResponseCodes,
            downstream_rq: ResponseClasses,
            external: Lazy<SampleBreaker>,
            #[name("")]
            more: Lazy<SampleBreaker>,
            time: Histogram,
        }
    }

    fn names(sample: &NestedSample) -> Vec<String> {
        let mut names = Vec::new();
        sample.visit(&mut Visitor::new(&mut |name, _| {
            names.push(name.to_owned())
        }));
        names
    }

    #[test]
    fn lists_nested_and_lazy_stats() {
        let sample = Arc::new(NestedSample::default());
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx", "completed"];
        let classes = classes.map(|c| format!("downstream_rq_{c}"));
        let mut want = vec!["total", "circuit_breakers.default.cx_open", "rq_completed"];
        want.extend(classes.iter().map(String::as_str));
        want.push("time");
        assert_eq!(names(&sample), want);

        sample.rq.record(204);
        sample.external.get();
        sample.more.get();
        let names = names(&sample);
        for name in ["rq_204", "rq_2xx", "external.cx_open", "cx_open"] {
            assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
        }
    }

    #[test]
    fn a_held_gauge_is_decremented_on_drop() {
        let breaker = Arc::new(SampleBreaker::default());
        let held = breaker.hold(|b| &b.cx_open);
        assert_eq!(breaker.cx_open.value(), 1);
        drop(held);
        assert_eq!(breaker.cx_open.value(), 0);
    }
}
