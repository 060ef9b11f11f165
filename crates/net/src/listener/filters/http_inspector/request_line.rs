//! The first line of a request, as Envoy's HTTP/1 parser reads it.

/// What the first line of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestLine {
    /// A request line of HTTP/1.1.
    Http11,
    /// A request line of another version, or of none (HTTP/0.9).
    OtherVersion,
    /// Not a request line.
    Invalid,
}

impl RequestLine {
    /// What the line at the beginning of `bytes` is; `None` if more are needed to tell.
    pub(super) fn of(bytes: &[u8]) -> Option<RequestLine> {
        let method_end = bytes.iter().position(|&byte| is_space(byte));
        let method = bytes.get(..method_end.unwrap_or(bytes.len()))?;
        if bytes.first().is_some_and(|&first| is_space(first))
            || !method.iter().all(|&byte| is_token(byte))
        {
            return Some(RequestLine::Invalid);
        }
        let end = bytes.iter().position(|&byte| byte == b'\n')?;
        let line = bytes.get(..end).unwrap_or_default();
        Some(RequestLine::of_line(line).unwrap_or(RequestLine::Invalid))
    }

    /// What a whole line is; `None` if it is not a request line.
    fn of_line(line: &[u8]) -> Option<RequestLine> {
        let mut words = line.split(|&byte| is_space(byte));
        let mut words = words.by_ref().filter(|word| !word.is_empty());
        let (method, target, version) = (words.next()?, words.next()?, words.next());
        if words.next().is_some() || !is_target(target, method == b"CONNECT") {
            return None;
        }
        match version {
            None => Some(RequestLine::OtherVersion),
            Some(b"HTTP/1.1") => Some(RequestLine::Http11),
            Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]) => {
                let is_version = major.is_ascii_digit() && minor.is_ascii_digit();
                is_version.then_some(RequestLine::OtherVersion)
            }
            Some(_) => None,
        }
    }
}

/// To the parser, all control characters are white space.
fn is_space(byte: u8) -> bool {
    byte <= b' '
}

/// Whether a method may have this byte (`tchar` of RFC 9110).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a request may have this target: a path, or a URL, or after CONNECT an authority.
fn is_target(target: &[u8], is_connect: bool) -> bool {
    let is_path_byte = |byte: &u8| matches!(byte, b'!'..=b'~');
    if matches!(target.first(), Some(b'/' | b'*')) {
        return target.iter().all(is_path_byte);
    }
    let rest = match is_connect {
        true => target,
        false => match after_scheme(target) {
            Some(rest) => rest,
            None => return false,
        },
    };
    let host_end = rest.iter().position(|byte| matches!(byte, b'/' | b'?'));
    let (host, path) = rest.split_at(host_end.unwrap_or(rest.len()));
    let is_host_byte =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=@[]_~".contains(byte);
    host.iter().all(is_host_byte)
        && !host.windows(2).any(|pair| pair == b"@@")
        && path.iter().all(is_path_byte)
}

/// What follows the scheme and `://`.
fn after_scheme(target: &[u8]) -> Option<&[u8]> {
    let end = target.windows(3).position(|bytes| bytes == b"://")?;
    let (scheme, rest) = target.split_at(end);
    let is_scheme_byte =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let is_scheme =
        scheme.first().is_some_and(u8::is_ascii_alphabetic) && scheme.iter().all(is_scheme_byte);
    rest.get(3..).filter(|_| is_scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], want: RequestLine) {
        for line in lines {
            // Each character is one byte.
            let bytes: Vec<u8> = line.chars().map(|letter| letter as u8).collect();
            assert_eq!(RequestLine::of(&bytes), Some(want), "{line:?}");
        }
    }

    #[test]
    fn lines_of_http_1_1() {
        let lines = [
            "GET / HTTP/1.1\r\n",
            "foo / HTTP/1.1\n",
            "GET  /  HTTP/1.1 \r\r\n",
            "GET\t/\r HTTP/1.1\r\n",
            "GET /\0 HTTP/1.1\r\n",
            "GET * HTTP/1.1\r\n",
            "GET http://a?b HTTP/1.1\r\n",
            "GET h-t+.1:// HTTP/1.1\r\n",
            "CONNECT a:b:c HTTP/1.1\r\n",
        ];
        check(&lines, RequestLine::Http11);
    }

    #[test]
    fn lines_of_other_versions() {
        let lines = ["GET /\r\n", "GET / HTTP/1.0\r\n", "GET / HTTP/9.9\r\n"];
        check(&lines, RequestLine::OtherVersion);
    }

    #[test]
    fn lines_that_are_no_request_lines() {
        let lines = [
            "\r\n",
            " GET / HTTP/1.1\r\n",
            "hello\n",
            "GET / FTP/1.1\r\n",
            "GET / http/1.1\r\n",
            "GET / HTTP/1.11\r\n",
            "GET / x HTTP/1.1\r\n",
            "GET a HTTP/1.1\r\n",
            "GET /\u{e9} HTTP/1.1\r\n",
            "GET http:/a HTTP/1.1\r\n",
            "GET http://a@@b HTTP/1.1\r\n",
            "GET http://a{b HTTP/1.1\r\n",
            "GET 1http://a HTTP/1.1\r\n",
            "CONNECT a#b HTTP/1.1\r\n",
        ];
        check(&lines, RequestLine::Invalid);
    }

    #[test]
    fn a_wrong_method_is_noticed_before_the_line_ends() {
        for begin in ["\x16", "(", "a(", "G\u{e9}", " "] {
            check(&[begin], RequestLine::Invalid);
        }
        assert_eq!(RequestLine::of(b"GET /"), None);
    }
}
