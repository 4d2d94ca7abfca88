//! What `secrets` asks, each answer checked at once and asked again at a terminal if it is wrong.

use crate::{
    commands::secrets::missing,
    destination::{Probe, probe},
    error::{Error, Kind, Result},
    given::{self, Given},
    gladly::{Gladly, base_url},
    http::Http,
    keys,
    settings::{AUTHORIZATION, Setting, Settings},
    terminal::Terminal,
};

/// What is put before the token in the header `authorization`.
const BEARER: &str = "bearer ";

/// Gladly's host.
pub(super) async fn host(terminal: &Terminal, settings: &Settings) -> Result<String> {
    if let Some(host) = settings.find(Setting::GladlyHost) {
        return Ok(host);
    }
    loop {
        let question = "Host of your Gladly organisation, such as acme.gladly.com: ";
        let Some(host) = terminal.ask(question).await else {
            return settings.require(Setting::GladlyHost);
        };
        match terminal.during("connecting to Gladly", check_host(&host)).await {
            Ok(()) => return Ok(host),
            Err(error) => terminal.remark(&error.sentence),
        }
    }
}

/// Whether Gladly can be there: something answers, without credentials mostly with 401.
async fn check_host(host: &str) -> Result<()> {
    let url = format!("{}/api/v1/organization", base_url(host)?);
    match Http::new().send("GET", &url, &[], None).await {
        Ok(answer) if (300..400).contains(&answer.status) => Err(Error::failed(format!(
            "{host} answers with a redirect, which is not followed: is it your organisation's host?"
        ))),
        Ok(_) => Ok(()),
        Err(reason) => Err(Error::failed(format!("could not reach Gladly at {host}: {reason}."))),
    }
}

/// The API user's e-mail address; `last` is the answer of before.
async fn email(terminal: &Terminal, settings: &Settings, last: Option<&str>) -> Result<String> {
    if let Some(email) = settings.find(Setting::GladlyEmail) {
        return Ok(email);
    }
    let question = match last {
        Some(last) => format!("E-mail address of the Gladly API user (Enter keeps {last}): "),
        None => "E-mail address of the Gladly API user: ".to_owned(),
    };
    loop {
        let Some(email) = terminal.ask(&question).await.or(last.map(str::to_owned)) else {
            return settings.require(Setting::GladlyEmail);
        };
        match Setting::GladlyEmail.check(&email) {
            Ok(()) => return Ok(email),
            Err(error) => terminal.remark(&error.sentence),
        }
    }
}

/// A secret as it was given, or as it is typed, or the one there is; and whether it was typed.
async fn secret(
    terminal: &Terminal,
    variable: &str,
    given: Option<&str>,
    question: &str,
    before: Option<&str>,
) -> Result<(String, bool)> {
    if let Some(given) = given {
        return Ok((given.to_owned(), false));
    }
    let question = match before {
        Some(_) => format!("{question} (Enter keeps the current one)"),
        None => question.to_owned(),
    };
    match (terminal.ask_secret(&question).await?, before) {
        (Some(typed), _) => Ok((typed, true)),
        (None, Some(before)) => Ok((before.to_owned(), false)),
        (None, None) => Err(missing(variable)),
    }
}

/// Gladly's token, which Gladly has accepted.
pub(super) async fn gladly_token(
    terminal: &Terminal,
    settings: &Settings,
    given: &Given,
    host: String,
    before: Option<&str>,
) -> Result<String> {
    let variable = "GLADLY_TOKEN";
    let mut last = None;
    loop {
        let email = email(terminal, settings, last.as_deref()).await?;
        let question = "Token of the Gladly API user";
        let given = given.gladly_token.as_deref();
        let (token, is_typed) = secret(terminal, variable, given, question, before).await?;
        let checked = async {
            given::check(variable, &token)?;
            let gladly = Gladly::new(terminal, &host, &email, &token)?;
            gladly.organization().await
        };
        match terminal.during("checking the token at Gladly", checked).await {
            Ok(organization) => {
                terminal
                    .say(&format!("Gladly knows {email}: organisation {organization} at {host}."));
                return Ok(token);
            }
            Err(error) if is_typed && matches!(error.kind, Kind::Denied | Kind::Usage) => {
                terminal.remark(&error.sentence);
                last = Some(email);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The destination's token, which the destination does not reject.
pub(super) async fn destination_token(
    terminal: &Terminal,
    settings: &Settings,
    given: &Given,
    before: Option<&str>,
) -> Result<String> {
    let variable = "DESTINATION_TOKEN";
    let url = settings.find(Setting::DestinationUrl);
    let header = settings.find(Setting::DestinationTokenHeader);
    let header = header.unwrap_or_else(|| AUTHORIZATION.to_owned());
    loop {
        let question = "Token of the destination";
        let given = given.destination_token.as_deref();
        let (token, is_typed) = secret(terminal, variable, given, question, before).await?;
        let checked = async {
            given::check(variable, &token)?;
            check_destination_token(&token, &header)?;
            match &url {
                Some(url) => try_token(terminal, url, &header, &token).await,
                None => Ok(()),
            }
        };
        match terminal.during("trying the token at the destination", checked).await {
            Ok(()) => return Ok(token),
            Err(error) if is_typed => terminal.remark(&error.sentence),
            // It is kept, not written: another secret can still be replaced.
            Err(error) if Some(&*token) == before => {
                terminal.remark(&format!("The current token is kept, although {}", error.sentence));
                return Ok(token);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Refuses a token with the scheme that the relay puts before it.
pub(in crate::commands) fn check_destination_token(token: &str, header: &str) -> Result<()> {
    let start = token.get(..BEARER.len()).unwrap_or_default();
    if header.trim().eq_ignore_ascii_case(AUTHORIZATION) && start.eq_ignore_ascii_case(BEARER) {
        return Err(Error::usage(
            "DESTINATION_TOKEN: expected the token alone, got one that begins with \"Bearer \", which the \
             relay adds.",
        ));
    }
    Ok(())
}

async fn try_token(terminal: &Terminal, url: &str, header: &str, token: &str) -> Result<()> {
    match probe(url, header, token).await {
        Probe::Accepted => Ok(()),
        Probe::Rejected(status) => Err(Error::denied(format!(
            "the destination {url} rejects the token in the header {header} (HTTP {status}); is it the right \
             one, and is the header?"
        ))),
        Probe::Unclear(status) => {
            terminal.remark(&format!(
                "The destination answers a harmless request with HTTP {status} with and without the token, so \
                 the first delivery has to show whether the token is right."
            ));
            Ok(())
        }
        Probe::Unreachable(reason) => {
            terminal.remark(&format!(
                "The destination {url} cannot be reached from here ({reason}), so the token was not tried."
            ));
            Ok(())
        }
    }
}

/// A new webhook key where there is none.
pub(super) async fn webhook_key(
    terminal: &Terminal,
    settings: &Settings,
    given: &Given,
    active: &[String],
) -> Result<Option<String>> {
    let given = given.webhook_key.as_deref();
    if active.is_empty() {
        return new_key(terminal, given, "Webhook key (Enter generates one)").await.map(Some);
    }
    match given {
        Some(key) if !active.iter().any(|active| active == key) => Err(Error::failed(format!(
            "there already is a webhook key, without which Gladly's webhooks would be rejected: {} replaces it \
             without a gap.",
            settings.relay.command("rotate-key")
        ))),
        _ => Ok(None),
    }
}

/// A new webhook key: as given, as typed, or generated.
pub(in crate::commands) async fn new_key(
    terminal: &Terminal,
    given: Option<&str>,
    question: &str,
) -> Result<String> {
    let key = loop {
        let typed = match given {
            Some(_) => None,
            None => terminal.ask_secret(question).await?,
        };
        match keys::chosen(given.or(typed.as_deref())) {
            Ok(key) => break key,
            Err(error) if typed.is_some() => terminal.remark(&error.sentence),
            Err(error) => return Err(error),
        }
    };
    terminal.hide(&key);
    Ok(key)
}
