//! The function's settings.

use std::{
    fmt::{self, Display},
    str::FromStr,
    time::Duration,
};

use http::{HeaderName, header};
use shared::{BucketUrl, ConfigError, Env, HttpUrl, SettleWindow, is_dns_name};

/// The settings, read from the environment.
#[derive(Debug, Clone)]
pub struct Config {
    /// The queue that events come from.
    pub events_queue_url: String,
    /// The same queue's ARN, by which its event source mapping is found.
    pub events_queue_arn: String,
    /// This function's own name.
    pub function: String,
    /// The queue for events that cannot be delivered.
    pub quarantine_queue_url: String,
    /// The SSM parameter (String) by which the operator pauses extraction.
    pub pause_parameter: String,
    /// The organisation's Gladly.
    pub gladly: GladlyHost,
    /// User name of the API user.
    pub gladly_email: String,
    /// The SSM parameter (SecureString) that holds the API user's token.
    pub gladly_token_parameter: String,
    /// The most of the organisation's quota that one environment uses: `GLADLY_REQUESTS_PER_SECOND`, 4 by
    /// default.
    pub gladly_rate: Rate,
    /// Where deliveries go.
    pub destination: DestinationConfig,
    /// What a delivery contains, and how it is encoded.
    pub delivery: DeliveryOptions,
    /// How long ingest-fn has events wait in the queue.
    pub settle_window: SettleWindow,
    /// The DynamoDB table in which environments share what was accepted; without one each has its
    /// own memory alone.
    pub coverage_table: Option<TableName>,
    /// Renew held events before the queue lets them expire.
    pub renew_held_events: bool,
    /// The URL of the webhook at Gladly that is monitored, if one is.
    pub watched_webhook: Option<String>,
}

/// What a delivery contains, and how it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the operator's switches, each by itself")]
pub struct DeliveryOptions {
    /// Compress bodies.
    pub gzip: bool,
    /// Forward addresses, numbers and other means of contact.
    pub contact: bool,
    /// Forward internal notes.
    pub notes: bool,
    /// Forward deletions and merges of customers.
    pub erasures: bool,
}

impl Config {
    /// Reads the settings from the process's environment.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::read(&Env::new(&|name| std::env::var(name).ok()))
    }

    /// Reads the settings from `env`.
    pub fn read(env: &Env<'_>) -> Result<Self, ConfigError> {
        let watches = env.switch("WATCH_WEBHOOK", true)?;
        let [events_queue_url, quarantine_queue_url] = env.queue_urls()?;
        Ok(Self {
            events_queue_url,
            events_queue_arn: env.checked(
                "EVENTS_QUEUE_ARN",
                is_queue_arn,
                "expected the ARN of an SQS queue",
            )?,
            function: env.required("AWS_LAMBDA_FUNCTION_NAME")?,
            quarantine_queue_url,
            pause_parameter: env.parameter_name("PAUSE_PARAMETER")?,
            gladly: env.required("GLADLY_HOST")?,
            gladly_email: env.checked(
                "GLADLY_EMAIL",
                is_user_name,
                "expected the email address of the API user, without spaces and colons",
            )?,
            gladly_token_parameter: env.parameter_name("GLADLY_TOKEN_PARAMETER")?,
            gladly_rate: env.optional("GLADLY_REQUESTS_PER_SECOND")?.unwrap_or_default(),
            destination: DestinationConfig::read(env)?,
            delivery: DeliveryOptions {
                gzip: env.switch("DESTINATION_GZIP", false)?,
                contact: env.switch("FORWARD_CUSTOMER_CONTACT", true)?,
                notes: env.switch("FORWARD_NOTES", true)?,
                erasures: env.switch("FORWARD_ERASURES", true)?,
            },
            settle_window: env.optional("SETTLE_SECONDS")?.unwrap_or_default(),
            coverage_table: env.optional("COVERAGE_TABLE")?,
            renew_held_events: env.switch("RENEW_HELD_EVENTS", true)?,
            watched_webhook: env
                .optional::<HttpUrl>("WEBHOOK_URL")?
                .filter(|_| watches)
                .map(|url| url.as_str().to_owned()),
        })
    }
}

/// `arn:<partition>:sqs:<region>:<account>:<queue>`.
fn is_queue_arn(text: &str) -> bool {
    let parts: Vec<_> = text.split(':').collect();
    matches!(parts[..], ["arn", _, "sqs", _, _, _])
        && parts.iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic()))
}

/// Basic authentication ends the user name at its first colon.
fn is_user_name(text: &str) -> bool {
    !text.chars().any(|c| c == ':' || c.is_whitespace() || c.is_control())
}

/// Gladly's host: the only one that the API token is ever sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GladlyHost {
    base: String,
    name: String,
}

impl GladlyHost {
    /// The start of every URL, without a trailing slash.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The host alone, which names the organisation.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for GladlyHost {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "expected a host like acme.gladly.com or acme.gladly.qa, without https://";
        if text.contains("://") {
            let url: HttpUrl = text.parse()?;
            let is_base = url.is_loopback() && matches!(url.path_and_query(), "" | "/");
            let host = Self { base: url.origin().to_owned(), name: url.authority().to_owned() };
            return is_base.then_some(host).ok_or(EXPECTED);
        }
        let name = text.to_ascii_lowercase();
        let organization =
            [".gladly.com", ".gladly.qa"].iter().find_map(|end| name.strip_suffix(end));
        if organization.is_some_and(|_| is_dns_name(&name)) {
            Ok(Self { base: format!("https://{name}"), name })
        } else {
            Err(EXPECTED)
        }
    }
}

/// Where deliveries go, and what is needed to hand them over.
#[derive(Debug, Clone)]
pub enum DestinationConfig {
    /// They are posted.
    Https {
        /// Where to.
        url: HttpUrl,
        /// The SSM parameter (SecureString) that holds the token: `DESTINATION_TOKEN_PARAMETER`.
        token_parameter: String,
        /// The header that carries the token: `DESTINATION_TOKEN_HEADER`, `authorization` by default.
        token_header: TokenHeader,
    },
    /// They are written to a bucket in the function's region, with the function's own role.
    S3(BucketUrl),
}

impl DestinationConfig {
    fn read(env: &Env<'_>) -> Result<Self, ConfigError> {
        Ok(match env.required("DESTINATION_URL")? {
            DestinationUrl::Https(url) => Self::Https {
                url,
                token_parameter: env.parameter_name("DESTINATION_TOKEN_PARAMETER")?,
                token_header: env.optional("DESTINATION_TOKEN_HEADER")?.unwrap_or_default(),
            },
            DestinationUrl::S3(url) => Self::S3(url),
        })
    }

    /// The destination's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        match self {
            Self::Https { url, .. } => url.as_str(),
            Self::S3(url) => url.as_str(),
        }
    }
}

/// The destination's URL: `DESTINATION_URL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DestinationUrl {
    /// `https://…`, or `http://…` on this machine.
    Https(HttpUrl),
    /// `s3://bucket` or `s3://bucket/prefix`.
    S3(BucketUrl),
}

impl FromStr for DestinationUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if BucketUrl::is_meant(text) {
            return text.parse().map(Self::S3);
        }
        let url: HttpUrl = text.parse()?;
        if url.is_https() || url.is_loopback() {
            Ok(Self::Https(url))
        } else {
            Err("expected an https:// URL, or s3:// with a bucket")
        }
    }
}

/// The header that carries the destination's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenHeader(HeaderName);

impl TokenHeader {
    /// The header's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.as_str()
    }

    /// The header's value for a token.
    #[must_use]
    pub fn value(&self, token: &str) -> String {
        if self.0 == header::AUTHORIZATION { format!("Bearer {token}") } else { token.to_owned() }
    }
}

impl Default for TokenHeader {
    fn default() -> Self {
        Self(header::AUTHORIZATION)
    }
}

impl FromStr for TokenHeader {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.parse::<HeaderName>().ok().filter(|name| !is_reserved(name.as_str()));
        name.map(Self).ok_or(
            "expected the name of a header that carries a credential, such as authorization or \
             x-api-key, and neither describes the delivery nor steers the connection or a proxy",
        )
    }
}

/// Whether a header already has a meaning in a request (RFC 9110 to 9113): with a token as its value
/// it would change the delivery's meaning, its transfer or its routing.
fn is_reserved(name: &str) -> bool {
    const NAMES: [&str; 31] = [
        "alt-used",
        "cache-control",
        "connection",
        "cookie",
        "date",
        "early-data",
        "expect",
        "forwarded",
        "from",
        "host",
        "http2-settings",
        "idempotency-key",
        "keep-alive",
        "max-forwards",
        "origin",
        "pragma",
        "prefer",
        "priority",
        "range",
        "referer",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "via",
        "warning",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-real-ip",
    ];
    const PREFIXES: [&str; 7] =
        ["accept", "access-control-", "content-", "if-", "proxy-", "sec-", "x-forwarded-"];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The name of a DynamoDB table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName(String);

impl TableName {
    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TableName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_name = (3..=255).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        is_name.then(|| Self(text.to_owned())).ok_or("expected the name of a DynamoDB table")
    }
}

/// Requests per second.
#[derive(Clone, Copy, PartialEq)]
pub struct Rate(f64);

impl Rate {
    /// The number itself.
    #[must_use]
    pub fn per_second(self) -> f64 {
        self.0
    }

    /// Time from one request to the next. The extra 3 % keep the rate under the limit when one
    /// request catches up with the previous one on the network.
    #[must_use]
    pub fn interval(self) -> Duration {
        Duration::from_secs_f64(1.03 / self.0)
    }
}

impl Default for Rate {
    /// Of the 10 that Gladly allows an organisation, two environments at 4 leave 2 for others.
    fn default() -> Self {
        Self(4.0)
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0, f)
    }
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rate = text.parse().ok().filter(|rate| (0.01..=1e6).contains(rate));
        rate.map(Self).ok_or("expected a number of requests per second, such as 4")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gladly_token_is_sent_only_to_gladly_or_to_this_machine() {
        let base = |text: &str| text.parse::<GladlyHost>().ok().map(|host| host.base().to_owned());
        for (text, expected) in [
            ("acme.gladly.com", Some("https://acme.gladly.com")),
            ("ACME.us-1.gladly.com", Some("https://acme.us-1.gladly.com")),
            ("acme.us-uat.gladly.qa", Some("https://acme.us-uat.gladly.qa")),
            ("http://127.0.0.1:4000", Some("http://127.0.0.1:4000")),
            ("http://localhost:4000/", Some("http://localhost:4000")),
            ("http://[::1]:4000", Some("http://[::1]:4000")),
            ("https://127.0.0.1:4000", Some("https://127.0.0.1:4000")),
            ("http://127.0.0.1:4o00", None),
            ("http://127.0.0.1:", None),
            ("http://127.0.0.1:4000/api", None),
            ("http://127.0.0.1:4000?x", None),
            ("http://127.0.0.1:4000#x", None),
            ("-acme.gladly.com", None),
            ("acme.gladly.com.", None),
            ("acme gladly.com", None),
            ("acme.gladly.com\u{0}", None),
            ("gladly.com", None),
            (".gladly.com", None),
            ("evilgladly.com", None),
            ("acme.gladly.com.evil.example", None),
            ("acme.gladly.com/path", None),
            ("evil.example/.gladly.com", None),
            ("evil.example#.gladly.com", None),
            ("user@acme.gladly.com", None),
            ("acme.gladly.com:8443", None),
            ("https://acme.gladly.com", None),
            ("http://acme.gladly.com", None),
            ("http://127.0.0.1.evil.example", None),
            ("http://user@127.0.0.1:4000", None),
            ("http://10.0.0.1", None),
        ] {
            assert_eq!(base(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn deliveries_are_encrypted_or_stay_on_this_machine() {
        for (text, expected) in [
            ("https://ingest.example.com/v1?source=gladly", true),
            ("http://127.0.0.1:4000/deliveries", true),
            ("https://[2001:db8::1]:8443/deliveries", true),
            ("http://[::1]:4000/deliveries", true),
            ("https://ingest.example.com:8o80/", false),
            ("https://ingest.example.com:99999/", false),
            ("https://ingest.example.com:/", false),
            ("https://ingest.example.com/#deliveries", false),
            ("https://ingest.example.com/a b", false),
            ("https://:8443/", false),
            ("http://ingest.example.com", false),
            ("https://user:password@ingest.example.com", false),
            ("ingest.example.com", false),
            ("https://", false),
        ] {
            assert_eq!(text.parse::<DestinationUrl>().is_ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_bucket_needs_no_token() {
        let read = |url: &'static str| {
            let lookup = move |name: &str| (name == "DESTINATION_URL").then(|| url.to_owned());
            DestinationConfig::read(&Env::new(&lookup)).map_err(|err| err.to_string())
        };
        let config = read("s3://acme-conversations/gladly").unwrap();
        assert_eq!(config.url(), "s3://acme-conversations/gladly");
        assert!(matches!(config, DestinationConfig::S3(_)));
        for (url, expected) in [
            ("https://ingest.example.com", "DESTINATION_TOKEN_PARAMETER is not set"),
            ("s3://Acme", "DESTINATION_URL is not valid: invalid bucket: expected 3 to 63"),
            ("s3://acme/gladly/", "DESTINATION_URL is not valid: invalid prefix: expected names"),
            ("S3://acme", "DESTINATION_URL is not valid: invalid scheme"),
        ] {
            let message = read(url).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn the_token_is_sent_in_the_configured_header() {
        assert_eq!(TokenHeader::default().value("t"), "Bearer t");
        let header: TokenHeader = "X-Api-Key".parse().unwrap();
        assert_eq!((header.name(), header.value("t").as_str()), ("x-api-key", "t"));
        for reserved in [
            "Content-Type",
            "Content-Encoding",
            "Content-Length",
            "Transfer-Encoding",
            "Host",
            "Connection",
            "Keep-Alive",
            "TE",
            "Trailer",
            "Upgrade",
            "HTTP2-Settings",
            "Proxy-Authorization",
            "Proxy-Connection",
            "Expect",
            "User-Agent",
            "Idempotency-Key",
            "Accept-Encoding",
            "If-None-Match",
            "Range",
            "Cookie",
            "X-HTTP-Method-Override",
            "X-Forwarded-For",
            "two words",
            "a:b",
            ":authority",
            "",
        ] {
            assert!(reserved.parse::<TokenHeader>().is_err(), "{reserved}");
        }
        for usable in ["Authorization", "X-Api-Key", "X-Auth-Token", "Api-Key", "X-Idiomatic-Token"]
        {
            assert!(usable.parse::<TokenHeader>().is_ok(), "{usable}");
        }
    }

    #[test]
    fn a_bad_setting_is_named_with_what_was_expected() {
        let with = |changed: &'static str, value: &'static str| {
            let lookup = move |name: &str| match name {
                name if name == changed => Some(value.to_owned()),
                "GLADLY_HOST" => Some("acme.gladly.com".to_owned()),
                "DESTINATION_URL" => Some("https://ingest.example.com".to_owned()),
                "EVENTS_QUEUE_URL" | "QUARANTINE_QUEUE_URL" => {
                    Some(format!("https://sqs.eu-west-1.amazonaws.com/123456789012/{name}"))
                }
                "EVENTS_QUEUE_ARN" => Some("arn:aws:sqs:eu-west-1:123456789012:events".to_owned()),
                "AWS_LAMBDA_FUNCTION_NAME"
                | "PAUSE_PARAMETER"
                | "GLADLY_EMAIL"
                | "GLADLY_TOKEN_PARAMETER"
                | "DESTINATION_TOKEN_PARAMETER" => Some("x".to_owned()),
                _ => None,
            };
            Config::read(&Env::new(&lookup))
        };
        let config = with("GLADLY_EMAIL", "relay@example.com").unwrap();
        assert_eq!(
            config.delivery,
            DeliveryOptions { gzip: false, contact: true, notes: true, erasures: true }
        );
        assert_eq!(config.gladly_rate.interval(), Duration::from_micros(257_500));

        for (name, value, expected) in [
            ("EVENTS_QUEUE_URL", "", "EVENTS_QUEUE_URL is not set"),
            (
                "GLADLY_REQUESTS_PER_SECOND",
                "0",
                "GLADLY_REQUESTS_PER_SECOND is not valid: expected a number",
            ),
            ("FORWARD_NOTES", "no", "FORWARD_NOTES is not valid: expected true or false"),
            ("GLADLY_HOST", "acme.com", "GLADLY_HOST is not valid: expected a host like"),
            (
                "DESTINATION_URL",
                "http://acme.com",
                "DESTINATION_URL is not valid: expected an https:// URL",
            ),
            ("DESTINATION_URL", "acme.com", "DESTINATION_URL is not valid: invalid scheme"),
            ("DESTINATION_URL", "https://h:8o80/", "DESTINATION_URL is not valid: invalid port"),
            (
                "DESTINATION_TOKEN_HEADER",
                "transfer-encoding",
                "DESTINATION_TOKEN_HEADER is not valid: expected the name",
            ),
            ("GLADLY_HOST", "http://localhost:", "GLADLY_HOST is not valid: invalid port"),
            (
                "GLADLY_EMAIL",
                "relay:x@example.com",
                "GLADLY_EMAIL is not valid: expected the email",
            ),
            ("WEBHOOK_URL", "https://h:99999/", "WEBHOOK_URL is not valid: invalid port"),
            ("EVENTS_QUEUE_ARN", "events", "EVENTS_QUEUE_ARN is not valid: expected the ARN"),
            ("QUARANTINE_QUEUE_URL", "https://h:x/1/q", "QUARANTINE_QUEUE_URL is not valid: "),
            ("PAUSE_PARAMETER", "/relay/pause:1", "PAUSE_PARAMETER is not valid: expected the"),
            ("COVERAGE_TABLE", "a table", "COVERAGE_TABLE is not valid: expected the name"),
        ] {
            let message = with(name, value).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
