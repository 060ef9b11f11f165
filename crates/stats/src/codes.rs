//! Families of counters by HTTP status.

use std::sync::OnceLock;

use crate::Counter;
use crate::CounterLike;
use crate::Metric;
use crate::Stat;
use crate::Visitor;

/// Responses by status: `<name>_completed`, and from the first such response on `<name>_200`, `<name>_2xx` and so on.
#[derive(Debug, Default)]
pub struct ResponseCodes<C = Counter> {
    completed: C,
    by_status: OnceLock<Box<StatusCounters<C>>>,
}

/// Statuses with their own counters. All others except zero share `<name>_unknown`, as in Envoy.
const STATUSES: std::ops::Range<u16> = 100..600;
/// Counters are allocated in blocks of this many statuses, because a service uses few and similar ones.
const BLOCK: usize = 25;

#[derive(Debug, Default)]
struct StatusCounters<C> {
    classes: [C; 5],
    unknown: C,
    blocks: [OnceLock<Box<[C; BLOCK]>>; 20],
}

impl<C: CounterLike> ResponseCodes<C> {
    /// Counts a response with `status`. Zero counts as completed only.
    pub fn record(&self, status: u16) {
        self.completed.inc();
        if status == 0 {
            return;
        }
        let by_status = self.by_status.get_or_init(Box::default);
        if !STATUSES.contains(&status) {
            return by_status.unknown.inc();
        }
        let offset = usize::from(status - STATUSES.start);
        by_status.classes[offset / 100].inc();
        by_status.blocks[offset / BLOCK].get_or_init(Box::default)[offset % BLOCK].inc();
    }
}

impl<C: CounterLike> Stat for ResponseCodes<C> {
    fn visit_as(&self, name: &'static str, visitor: &mut Visitor<'_>) {
        visitor.member(
            name,
            format_args!("completed"),
            Metric::Counter(self.completed.counter()),
        );
        let Some(by_status) = self.by_status.get() else {
            return;
        };
        for (class, counter) in (1..).zip(&by_status.classes) {
            let counter = counter.counter();
            if counter.value() > 0 {
                visitor.member(name, format_args!("{class}xx"), Metric::Counter(counter));
            }
        }
        let unknown = by_status.unknown.counter();
        if unknown.value() > 0 {
            visitor.member(name, format_args!("unknown"), Metric::Counter(unknown));
        }
        for (index, block) in by_status.blocks.iter().enumerate() {
            let first = usize::from(STATUSES.start) + index * BLOCK;
            for (status, counter) in (first..).zip(block.get().into_iter().flat_map(|b| b.iter())) {
                let counter = counter.counter();
                if counter.value() > 0 {
                    visitor.member(name, format_args!("{status}"), Metric::Counter(counter));
                }
            }
        }
    }
}

/// Responses by class: `<name>_1xx` … `<name>_5xx` and `<name>_completed`, which are listed even while zero.
#[derive(Debug, Default)]
pub struct ResponseClasses {
    classes: [Counter; 5],
    completed: Counter,
}

impl ResponseClasses {
    /// Counts a response with `status`.
    pub fn record(&self, status: u16) {
        self.completed.inc();
        let class = usize::from(status / 100).wrapping_sub(1);
        if let Some(counter) = self.classes.get(class) {
            counter.inc();
        }
    }
}

impl Stat for ResponseClasses {
    fn visit_as(&self, name: &'static str, visitor: &mut Visitor<'_>) {
        for (class, counter) in (1..).zip(&self.classes) {
            visitor.member(name, format_args!("{class}xx"), Metric::Counter(counter));
        }
        visitor.member(
            name,
            format_args!("completed"),
            Metric::Counter(&self.completed),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn values(stat: &impl Stat) -> BTreeMap<String, u64> {
        let mut values = BTreeMap::new();
        let mut see = |name: &str, metric: Metric<'_>| {
            if let Metric::Counter(counter) = metric {
                values.insert(name.to_owned(), counter.value());
            }
        };
        stat.visit_as("rq", &mut Visitor::new(&mut see));
        values
    }

    #[test]
    fn codes_are_listed_from_their_first_response() {
        let codes = ResponseCodes::<Counter>::default();
        assert_eq!(values(&codes), BTreeMap::from([("rq_completed".into(), 0)]));
        for status in [200, 200, 299, 503, 100, 599, 99, 600, u16::MAX, 0] {
            codes.record(status);
        }
        let want = [
            ("rq_100", 1),
            ("rq_1xx", 1),
            ("rq_200", 2),
            ("rq_299", 1),
            ("rq_2xx", 3),
            ("rq_503", 1),
            ("rq_599", 1),
            ("rq_5xx", 2),
            ("rq_completed", 10),
            ("rq_unknown", 3),
        ];
        assert_eq!(values(&codes), want.map(|(n, v)| (n.to_owned(), v)).into());
    }

    #[test]
    fn classes_ignore_impossible_statuses() {
        let classes = ResponseClasses::default();
        for status in [204, 404, 99, 600, 0] {
            classes.record(status);
        }
        let values = values(&classes);
        assert_eq!((values["rq_2xx"], values["rq_4xx"]), (1, 1));
        assert_eq!(values["rq_completed"], 5);
    }
}
