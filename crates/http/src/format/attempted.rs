//! The hosts that connections were attempted to (`%UPSTREAM_HOSTS_ATTEMPTED%` and others).

use outrider_net::Address;

use crate::format::Context;
use crate::format::OutputKind;
use crate::format::stream_info;
use crate::format::values;

/// Appends one host.
type WriteHost = fn(&Address, Option<&str>, &mut Vec<u8>) -> OutputKind;

pub(crate) fn addresses(context: &Context<'_>, out: &mut Vec<u8>) -> OutputKind {
    list(
        context,
        |address, _, out| values::display(address, out),
        out,
    )
}

pub(crate) fn addresses_without_port(context: &Context<'_>, out: &mut Vec<u8>) -> OutputKind {
    list(
        context,
        |address, _, out| values::host(Some(address), None, out),
        out,
    )
}

/// A host without a name is listed by its address.
pub(crate) fn names(context: &Context<'_>, out: &mut Vec<u8>) -> OutputKind {
    let write: WriteHost = |address, name, out| match name {
        Some(name) => values::text(Some(name), out),
        None => values::display(address, out),
    };
    list(context, write, out)
}

pub(crate) fn names_without_port(context: &Context<'_>, out: &mut Vec<u8>) -> OutputKind {
    let write: WriteHost = |address, name, out| match name {
        Some(name) => values::text(Some(values::without_port(name)), out),
        None => values::host(Some(address), None, out),
    };
    list(context, write, out)
}

/// The hosts of all attempts, in their order. Of a request only the last is known, once there was a connection to it.
fn list(context: &Context<'_>, write: WriteHost, out: &mut Vec<u8>) -> OutputKind {
    let Some(upstream) = &context.stream.upstream else {
        return OutputKind::Absent;
    };
    if upstream.hosts_attempted.is_empty() {
        let host = stream_info::upstream_remote(context.stream);
        let name = upstream.host_name.as_deref();
        return host.map_or(OutputKind::Absent, |address| write(address, name, out));
    }
    for (index, host) in upstream.hosts_attempted.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let name = Some(&**host.hostname()).filter(|name| !name.is_empty());
        write(host.address(), name, out);
    }
    OutputKind::Text
}
