//! The destination, asked without posting anything.

use crate::{http::Http, settings::AUTHORIZATION};

/// What a request with the token shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Probe {
    /// It answers, and does not reject the token.
    Accepted,
    /// It rejects the token with this status.
    Rejected(u16),
    /// It answers, but whether the token is right cannot be concluded.
    Unclear(u16),
    /// It cannot be reached from here.
    Unreachable(String),
}

/// The value of the header that carries the token.
pub(crate) fn credential(header: &str, token: &str) -> String {
    if header.eq_ignore_ascii_case(AUTHORIZATION) {
        format!("Bearer {token}")
    } else {
        token.to_owned()
    }
}

/// Sends the token with a HEAD request, which changes nothing.
///
/// A gateway may answer every method but POST with 403, whatever the token. So 403 counts only if the
/// destination answers 401 without a token.
pub(crate) async fn probe(url: &str, header: &str, token: &str) -> Probe {
    let http = Http::new();
    let value = credential(header, token);
    let header = header.to_ascii_lowercase();
    match http.send("HEAD", url, &[(&header, &value)], None).await {
        Err(reason) => Probe::Unreachable(reason),
        Ok(answer) if answer.status == 401 => Probe::Rejected(401),
        Ok(answer) if answer.status == 403 => match http.send("HEAD", url, &[], None).await {
            Ok(without) if without.status == 401 => Probe::Rejected(403),
            _ => Probe::Unclear(403),
        },
        Ok(_) => Probe::Accepted,
    }
}
