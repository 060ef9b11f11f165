//! `%GRPC_STATUS%`: the status of a gRPC call as a number or a name.

use outrider_codec::header;

use crate::Captures;
use crate::Stream;
use crate::format::OutputKind;
use crate::format::command::FormatCommand;
use crate::format::operators::Operator;
use crate::format::values;
use crate::grpc;

/// The names of the statuses 0 to 16, in both spellings.
const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// How the status is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrpcStatus {
    Camel,
    Snake,
    Number,
}

impl GrpcStatus {
    /// `%GRPC_STATUS(X)%`.
    pub(crate) fn build(command: &FormatCommand<'_>) -> Result<Operator, String> {
        command.takes_no_length()?;
        let spelling = match command.param {
            "" | "CAMEL_STRING" => GrpcStatus::Camel,
            "SNAKE_STRING" => GrpcStatus::Snake,
            "NUMBER" => GrpcStatus::Number,
            other => {
                return Err(format!(
                    "GrpcStatusFormatter only supports CAMEL_STRING, SNAKE_STRING or NUMBER. Got: {other}"
                ));
            }
        };
        Ok(Operator::GrpcStatus(spelling))
    }

    /// `%GRPC_STATUS_NUMBER%`.
    pub(crate) fn build_number(command: &FormatCommand<'_>) -> Result<Operator, String> {
        command.takes_nothing()?;
        Ok(Operator::GrpcStatus(GrpcStatus::Number))
    }

    pub(crate) fn write(self, stream: &Stream, out: &mut Vec<u8>) -> OutputKind {
        if !grpc::is_request(&stream.request.headers) {
            return OutputKind::Absent;
        }
        let Some(status) = grpc_status(stream) else {
            return OutputKind::Absent;
        };
        let names = usize::try_from(status).ok().and_then(|at| NAMES.get(at));
        match (self, names) {
            (GrpcStatus::Number, _) => values::signed(status, out),
            (GrpcStatus::Camel, Some((camel, _))) => values::text(Some(camel), out),
            (GrpcStatus::Snake, Some((_, snake))) => values::text(Some(snake), out),
            (_, None) => {
                values::signed(status, out);
                OutputKind::Text
            }
        }
    }
}

/// Adds the headers that hold a call's status.
pub(crate) fn capture_grpc_status(captures: &mut Captures) {
    captures.response.add(&header::GRPC_STATUS);
    captures.trailers.add(&header::GRPC_STATUS);
}

/// The status of a gRPC call: from the trailers, from the head of a response without a body, or the one that the HTTP
/// status maps to.
pub(crate) fn grpc_status(stream: &Stream) -> Option<i64> {
    let trailers = stream.response_trailers.as_ref();
    let headers = stream.response.as_ref().map(|response| &response.headers);
    let told = [trailers, headers]
        .into_iter()
        .flatten()
        .find_map(|headers| headers.get(&header::GRPC_STATUS));
    match told {
        // Envoy's number for a value that is not a status.
        Some(value) => Some(
            value
                .as_str()
                .and_then(|value| value.parse().ok())
                .unwrap_or(-1),
        ),
        None => stream
            .response
            .as_ref()
            .map(|response| of_http(response.status.as_u16())),
    }
}

/// The gRPC status that gRPC's specification assigns to an HTTP status.
fn of_http(status: u16) -> i64 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}
