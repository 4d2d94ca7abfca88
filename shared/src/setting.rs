//! Settings of both functions, read strictly: what a lenient reader would silently correct or omit
//! keeps the function from starting.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use http::Uri;

use crate::{ConfigError, Env};

/// SSM's limit, less what the relay appends to a name.
const PARAMETER_NAME_LIMIT: usize = 1_000;
/// The limits of DNS.
const HOST_LIMIT: usize = 253;
const LABEL_LIMIT: usize = 63;

/// An absolute `http` or `https` URL that a request can be sent to: without a user name and a
/// fragment, which would be dropped, and with a valid port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    text: String,
    scheme_end: usize,
    authority_end: usize,
    host_end: usize,
}

impl HttpUrl {
    /// The URL's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Scheme and authority, like `https://example.com:8443`.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.text[..self.authority_end]
    }

    /// The host and its port, if one is given.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.text[self.scheme_end..self.authority_end]
    }

    /// Everything after the authority.
    #[must_use]
    pub fn path_and_query(&self) -> &str {
        &self.text[self.authority_end..]
    }

    /// Whether a request is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.scheme_end == "https://".len()
    }

    /// Whether a request stays on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = &self.text[self.scheme_end..self.host_end];
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        host.eq_ignore_ascii_case("localhost")
            || host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
            || literal
                .and_then(|literal| literal.parse().ok())
                .is_some_and(|address: Ipv6Addr| address.is_loopback())
    }
}

impl FromStr for HttpUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("invalid character: expected a URL in printable ASCII without spaces");
        }
        let scheme_end = ["http://", "https://"].into_iter().find_map(|scheme| {
            let start = text.get(..scheme.len())?;
            start.eq_ignore_ascii_case(scheme).then_some(scheme.len())
        });
        let scheme_end = scheme_end.ok_or("invalid scheme: expected an http:// or https:// URL")?;
        if text.contains('#') {
            return Err("expected a URL without a fragment (#)");
        }
        let rest = &text[scheme_end..];
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err("expected a URL without a user name");
        }
        // The colons within an IPv6 address are inside its brackets.
        let host_length = match authority.find(']') {
            Some(bracket) => bracket + 1,
            None => authority.find(':').unwrap_or(authority.len()),
        };
        let (host, port) = authority.split_at(host_length);
        if !is_host(host) {
            return Err(
                "invalid host: expected a DNS name, an IPv4 address or an IPv6 address in brackets",
            );
        }
        if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
            return Err(
                "invalid port: expected a number from 1 to 65535 after the colon, or no colon",
            );
        }
        // The HTTP client parses it for every request.
        text.parse::<Uri>().map_err(|_| "invalid path: expected a URL as RFC 3986 defines it")?;
        Ok(Self {
            text: text.to_owned(),
            scheme_end,
            authority_end: scheme_end + authority.len(),
            host_end: scheme_end + host_length,
        })
    }
}

fn is_host(host: &str) -> bool {
    if let Some(literal) = host.strip_prefix('[') {
        return literal
            .strip_suffix(']')
            .is_some_and(|literal| literal.parse::<Ipv6Addr>().is_ok());
    }
    // Most readers take a name whose last label is a number for an IPv4 address in some form.
    let last = host.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return host.parse::<Ipv4Addr>().is_ok();
    }
    is_dns_name(host)
}

/// Whether a text is a DNS name, without a trailing dot.
#[must_use]
pub fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=LABEL_LIMIT).contains(&label.len())
            && label.bytes().all(is_allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= HOST_LIMIT && name.split('.').all(is_label)
}

fn is_port(digits: &str) -> bool {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number && digits.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_queue_url(text: &str) -> bool {
    let name = |url: &HttpUrl| url.path_and_query().rsplit('/').next().map(str::to_owned);
    text.parse().ok().as_ref().and_then(name).is_some_and(|name| !name.is_empty())
}

fn is_parameter_name(text: &str) -> bool {
    let is_allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'/');
    text.len() <= PARAMETER_NAME_LIMIT && text.bytes().all(is_allowed)
}

impl Env<'_> {
    /// The URL of an SQS queue.
    pub fn queue_url(&self, name: &'static str) -> Result<String, ConfigError> {
        self.checked(name, is_queue_url, "expected the URL of an SQS queue")
    }

    /// The events and the quarantine queue. One queue for both would receive again what is
    /// quarantined.
    pub fn queue_urls(&self) -> Result<[String; 2], ConfigError> {
        const QUARANTINE: &str = "QUARANTINE_QUEUE_URL";
        let events = self.queue_url("EVENTS_QUEUE_URL")?;
        let quarantine = self.checked(
            QUARANTINE,
            |url| is_queue_url(url) && url != events,
            "expected the URL of an SQS queue other than EVENTS_QUEUE_URL",
        )?;
        Ok([events, quarantine])
    }

    /// The name of an SSM parameter: not its ARN, which other calls reject, and without a version
    /// or label, which would pin it.
    pub fn parameter_name(&self, name: &'static str) -> Result<String, ConfigError> {
        self.checked(
            name,
            is_parameter_name,
            "expected the name of an SSM parameter, such as /relay/pause",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_one_that_a_request_can_be_sent_to() {
        let label = "a".repeat(64);
        for (text, expected) in [
            ("https://ingest.example.com", Ok("ingest.example.com")),
            ("HTTPS://ingest.example.com:8443/v1?source=a:b@c", Ok("ingest.example.com:8443")),
            ("http://my_host?x=1", Ok("my_host")),
            ("https://192.0.2.1:1/", Ok("192.0.2.1:1")),
            ("https://[2001:db8::1]", Ok("[2001:db8::1]")),
            ("https://[::1]:65535/", Ok("[::1]:65535")),
            ("https://h:8o80/", Err("port")),
            ("https://h:99999/", Err("port")),
            ("https://h:65536/", Err("port")),
            ("https://h:0/", Err("port")),
            ("https://h:/", Err("port")),
            ("https://h:", Err("port")),
            ("https://h:+80/", Err("port")),
            ("https://h:80:80/", Err("port")),
            ("https://[::1]80/", Err("port")),
            ("https://[::1]:/", Err("port")),
            ("https://user@h/", Err("user name")),
            ("https://user:password@h/", Err("user name")),
            ("https://@h/", Err("user name")),
            ("https://h/#part", Err("fragment")),
            ("https://h#", Err("fragment")),
            ("https://h/a b", Err("character")),
            ("https://h/\u{7f}", Err("character")),
            ("https://h/\ta", Err("character")),
            ("\u{feff}https://h/", Err("character")),
            ("https://hä.example/", Err("character")),
            ("https://", Err("host")),
            ("https:///path", Err("host")),
            ("https://:443/", Err("host")),
            ("https://.example.com/", Err("host")),
            ("https://example..com/", Err("host")),
            ("https://example.com./", Err("host")),
            ("https://-a.example/", Err("host")),
            (r"https://example.com\evil.example/", Err("host")),
            ("https://a%2eexample/", Err("host")),
            ("https://256.1.1.1/", Err("host")),
            ("https://10.1/", Err("host")),
            ("https://[::1/", Err("host")),
            ("https://[::1%25eth0]/", Err("host")),
            ("https://::1/", Err("host")),
            (&format!("https://{label}.example/"), Err("host")),
            ("ftp://h/", Err("scheme")),
            ("https:/h", Err("scheme")),
            ("h:443", Err("scheme")),
            ("", Err("scheme")),
        ] {
            let url = text.parse::<HttpUrl>();
            match expected {
                Ok(authority) => {
                    let url = url.unwrap();
                    assert_eq!((url.as_str(), url.authority()), (text, authority));
                    let uri: Uri = text.parse().unwrap();
                    assert_eq!(uri.authority().unwrap().as_str(), authority);
                }
                Err(part) => {
                    let reason = url.unwrap_err();
                    assert!(reason.contains(part), "{text}: {reason}");
                }
            }
        }
    }

    #[test]
    fn only_loopback_names_and_addresses_are_this_machine() {
        for (text, expected) in [
            ("http://localhost:4000/", true),
            ("http://LOCALHOST", true),
            ("http://127.0.0.1:4000", true),
            ("http://[::1]:4000", true),
            ("http://[0:0:0:0:0:0:0:1]", true),
            ("http://127.0.0.1.example", false),
            ("http://localhost.example", false),
            ("http://10.0.0.1", false),
            ("http://[::2]", false),
        ] {
            assert_eq!(text.parse::<HttpUrl>().unwrap().is_loopback(), expected, "{text}");
        }
    }

    #[test]
    fn an_invalid_queue_or_parameter_is_named() {
        let queue = "https://sqs.eu-west-1.amazonaws.com/123456789012/events";
        let read = |value: &'static str| {
            let lookup = move |_: &str| Some(value.to_owned());
            let env = Env::new(&lookup);
            [env.queue_url("EVENTS_QUEUE_URL"), env.parameter_name("PAUSE_PARAMETER")]
        };
        let [is_queue, is_parameter] = read(queue);
        assert!(is_queue.is_ok() && is_parameter.is_err());
        assert!(read("/relay/pause-2.x_y")[1].is_ok());
        for bad in ["x", "https://h:8o80/1/events", "https://h/", "sqs.eu-west-1.amazonaws.com/1/a"]
        {
            let error = read(bad)[0].as_ref().unwrap_err().to_string();
            assert!(
                error.starts_with("EVENTS_QUEUE_URL is not valid: expected the URL"),
                "{error}"
            );
        }
        for bad in ["/relay/pause:3", "/relay pause", "/relay/päuse", "arn:aws:ssm:x:1:parameter/a"]
        {
            let error = read(bad)[1].as_ref().unwrap_err().to_string();
            assert!(
                error.starts_with("PAUSE_PARAMETER is not valid: expected the name"),
                "{error}"
            );
        }
        let lookup = |_: &str| Some(queue.to_owned());
        let error = Env::new(&lookup).queue_urls().unwrap_err().to_string();
        assert!(error.starts_with("QUARANTINE_QUEUE_URL is not valid: expected "), "{error}");
    }
}
