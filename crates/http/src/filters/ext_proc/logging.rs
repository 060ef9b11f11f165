//! What access logs can tell of the calls to the processor (`%FILTER_STATE%` under the filter's name).

use std::borrow::Cow;
use std::cell::RefCell;
use std::time::Duration;

use outrider_net::FilterStateObject;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

use super::conversation::Awaits;
use super::conversation::Side;

/// The calls about one stream.
#[derive(Debug, Default)]
pub(super) struct LoggingInfo(RefCell<[SideInfo; 2]>);

#[derive(Debug, Default)]
struct SideInfo {
    headers: Option<CallInfo>,
    body: Option<CallInfo>,
    trailers: Option<CallInfo>,
}

/// One call, or all calls about a body.
#[derive(Clone, Copy, Debug)]
struct CallInfo {
    count: u64,
    total: Duration,
    longest: Duration,
    /// The gRPC status of the last one.
    status: u32,
}

impl LoggingInfo {
    /// Notes that an answer has come, or that none will.
    pub(super) fn record(&self, side: Side, awaited: Awaits, took: Duration, status: u32) {
        let [request, response] = &mut *self.0.borrow_mut();
        let info = match side {
            Side::Request => request,
            Side::Response => response,
        };
        let first = CallInfo {
            count: 1,
            total: took,
            longest: took,
            status,
        };
        match awaited {
            Awaits::Nothing => {}
            Awaits::Headers => drop(info.headers.get_or_insert(first)),
            Awaits::Trailers => drop(info.trailers.get_or_insert(first)),
            Awaits::Body | Awaits::Pieces => match &mut info.body {
                None => info.body = Some(first),
                Some(body) => {
                    body.count += 1;
                    body.total += took;
                    body.longest = body.longest.max(took);
                    body.status = status;
                }
            },
        }
    }

    /// Each value, by Envoy's name for it.
    fn fields(&self) -> Vec<(String, u64)> {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let mut fields = Vec::new();
        let infos = self.0.borrow();
        for (info, side) in infos.iter().zip(["request", "response"]) {
            for (call, part) in [(&info.headers, "header"), (&info.trailers, "trailer")] {
                if let Some(call) = call {
                    fields.push((format!("{side}_{part}_latency_us"), micros(call.total)));
                    fields.push((format!("{side}_{part}_call_status"), call.status.into()));
                }
            }
            if let Some(call) = &info.body {
                fields.push((format!("{side}_body_call_count"), call.count));
                fields.push((format!("{side}_body_total_latency_us"), micros(call.total)));
                fields.push((format!("{side}_body_max_latency_us"), micros(call.longest)));
                fields.push((format!("{side}_body_last_call_status"), call.status.into()));
            }
        }
        fields
    }
}

impl FilterStateObject for LoggingInfo {
    fn text(&self) -> Option<Cow<'_, str>> {
        let mut parts = Vec::new();
        for (info, side) in self.0.borrow().iter().zip(["r", "s"]) {
            if let Some(call) = &info.headers {
                let micros = call.total.as_micros();
                parts.push(format!("{side}h:{micros}:{}", call.status));
            }
            if let Some(call) = &info.body {
                let (count, micros) = (call.count, call.total.as_micros());
                parts.push(format!("{side}b:{count}:{micros}:{}", call.status));
            }
            if let Some(call) = &info.trailers {
                let micros = call.total.as_micros();
                parts.push(format!("{side}t:{micros}:{}", call.status));
            }
        }
        Some(parts.join(",").into())
    }

    #[expect(clippy::cast_precision_loss, reason = "they are numbers of JSON")]
    fn json(&self) -> Option<Value> {
        let fields = self.fields().into_iter();
        let fields = fields.map(|(name, value)| {
            let kind = Some(Kind::NumberValue(value as f64));
            (name, Value { kind })
        });
        let object = Struct {
            fields: fields.collect(),
        };
        Some(Value {
            kind: Some(Kind::StructValue(object)),
        })
    }

    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        let fields = self.fields();
        let (_, value) = fields.iter().find(|(known, _)| known == name)?;
        Some(value.to_string().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_by_part() {
        let info = LoggingInfo::default();
        let took = Duration::from_micros(7);
        info.record(Side::Request, Awaits::Headers, took, 0);
        info.record(Side::Request, Awaits::Pieces, took, 0);
        info.record(Side::Request, Awaits::Pieces, took * 2, 14);
        info.record(Side::Response, Awaits::Trailers, took, 4);
        info.record(Side::Response, Awaits::Nothing, took, 4);
        assert_eq!(info.text().unwrap(), "rh:7:0,rb:2:21:14,st:7:4");
        assert_eq!(info.field("request_body_max_latency_us").unwrap(), "14");
        assert_eq!(info.field("response_trailer_call_status").unwrap(), "4");
        assert_eq!(info.field("response_header_call_status"), None);
    }
}
