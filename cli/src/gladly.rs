//! Gladly's REST API, as far as setting up, tracing and testing need it.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;
use tokio::time::Duration;

use crate::{
    error::{Error, Result},
    http::{Http, Response},
    terminal::Terminal,
};

/// How long to wait before another attempt of a call that Gladly answered with 429: its quota is per
/// second, and the relay itself uses it too.
const THROTTLING_WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// Gladly with the API user's credentials.
pub(crate) struct Gladly {
    http: Http,
    base: String,
    /// The organisation's host.
    pub(crate) host: String,
    /// The API user.
    pub(crate) email: String,
    authorization: String,
}

impl Gladly {
    /// The organisation at this host, which is checked before the token goes anywhere.
    pub(crate) fn new(terminal: &Terminal, host: &str, email: &str, token: &str) -> Result<Self> {
        let base = base_url(host)?;
        if !is_email(email) {
            return Err(Error::usage(format!(
                "expected the e-mail address of a Gladly user, got {email:?}."
            )));
        }
        let basic = BASE64_STANDARD.encode(format!("{email}:{token}"));
        terminal.hide(token);
        terminal.hide(&basic);
        Ok(Self {
            http: Http::new(),
            base,
            host: host.to_owned(),
            email: email.to_owned(),
            authorization: format!("Basic {basic}"),
        })
    }

    /// An answer that is good (2xx), or that says what is wrong with the request (400, 404, 409, 422).
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response> {
        let url = format!("{}/api/v1/{path}", self.base);
        let headers = [
            ("authorization", &*self.authorization),
            ("content-type", "application/json"),
            ("user-agent", concat!("gladly-relay/", env!("CARGO_PKG_VERSION"))),
        ];
        let body = body.map(|body| body.to_string().into_bytes());
        let mut waits = THROTTLING_WAITS.into_iter();
        let answer = loop {
            let sending = self.http.send(method, &url, &headers, body.as_deref());
            let answer = Box::pin(sending).await;
            let is_throttled = answer.as_ref().is_ok_and(|answer| answer.status == 429);
            match waits.next().filter(|_| is_throttled) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => break answer,
            }
        };
        let answer = answer.map_err(|reason| {
            Error::failed(format!(
                "could not reach Gladly at {}: {reason}; is there a network, and is the host right?",
                self.host
            ))
        })?;
        let (host, email) = (&self.host, &self.email);
        match answer.status {
            200..=299 | 400 | 404 | 409 | 422 => Ok(answer),
            401 => Err(Error::denied(format!(
                "Gladly at {host} rejected the token of {email}: the address or the token is wrong, or of \
                 another environment (a sandbox token works at *.gladly.qa only)."
            ))),
            403 => Err(Error::denied(format!(
                "Gladly does not allow {email} to do this: the user needs the permission API User, and perhaps \
                 the role Administrator."
            ))),
            429 => Err(Error::failed(
                "Gladly is throttling the requests of your organisation; try again in a minute.",
            )),
            300..=399 => Err(Error::failed(format!(
                "{host} answers with a redirect, which is not followed: is it your organisation's host?"
            ))),
            status => {
                Err(Error::failed(format!("Gladly answered HTTP {status}; try again later.")))
            }
        }
    }

    /// The organisation's name, once the credentials have proved to work.
    pub(crate) async fn organization(&self) -> Result<String> {
        let answer = self.call("GET", "organization", None).await?;
        let body = answer.json();
        if answer.status != 200 || !body.is_object() {
            return Err(Error::failed(format!(
                "{} does not answer like Gladly: is it the host of your organisation?",
                self.host
            )));
        }
        let name = [&body["name"], &body["id"]].into_iter().find_map(Value::as_str);
        Ok(name.unwrap_or(&self.host).to_owned())
    }
}

/// The start of every URL: the pattern of the template's parameter `GladlyHost`.
pub(crate) fn base_url(host: &str) -> Result<String> {
    let organization = [".gladly.com", ".gladly.qa"].iter().find_map(|end| host.strip_suffix(end));
    let is_lower = !host.bytes().any(|byte| byte.is_ascii_uppercase());
    if organization.is_some() && is_lower && shared::is_dns_name(host) {
        return Ok(format!("https://{host}"));
    }
    let is_loopback = host.starts_with("http://127.0.0.1:")
        && host.parse::<shared::HttpUrl>().is_ok_and(|url| url.path_and_query().is_empty());
    if is_loopback {
        return Ok(host.to_owned());
    }
    Err(Error::usage(format!(
        "expected a host under gladly.com or gladly.qa in lower case, without https:// and path, such as \
         acme.gladly.com; got {host:?}."
    )))
}

/// The pattern of the template's parameter `GladlyEmail`.
pub(crate) fn is_email(text: &str) -> bool {
    let is_plain = !text.chars().any(|c| c.is_whitespace() || c.is_control());
    let parts =
        text.split_once('@').filter(|(user, domain)| !user.is_empty() && !domain.contains('@'));
    is_plain
        && parts.is_some_and(|(_, domain)| {
            domain.rsplit_once('.').is_some_and(|(start, end)| !start.is_empty() && !end.is_empty())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_under_gladly_or_on_loopback() {
        for host in ["acme.gladly.com", "a.b.gladly.qa", "http://127.0.0.1:4000"] {
            assert!(base_url(host).is_ok(), "{host}");
        }
        for host in [
            "",
            "gladly.com",
            "acme.gladly.com/",
            "https://acme.gladly.com",
            "Acme.gladly.com",
            "acme.gladly.com.evil.com",
            "acme@gladly.com",
            "http://127.0.0.1:4000/x",
            "http://example.com:80",
        ] {
            assert!(base_url(host).is_err(), "{host}");
        }
        assert!(
            is_email("relay@example.com") && !is_email("relay@example") && !is_email("a@b@c.d")
        );
    }
}
