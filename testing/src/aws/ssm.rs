//! Parameter Store.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Fault, State, text};

/// The most characters of a standard parameter's text.
const TEXT_LIMIT: usize = 4_096;
/// Versions that are kept of one parameter.
const VERSIONS: usize = 100;
/// The largest page of a parameter's history.
const PAGE: u64 = 50;

/// A parameter written by a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// When.
    pub at: Timestamp,
    /// Which.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// One version of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Counted from 1 since the parameter was created.
    pub number: i64,
    /// Its text.
    pub text: String,
    /// Its description, which may be empty.
    pub description: String,
    /// When it was written.
    pub at: Timestamp,
}

impl State {
    /// Writes a parameter as its next version, of which the oldest go, and returns its number.
    pub(super) fn put_parameter(
        &mut self,
        name: &str,
        text: &str,
        description: &str,
        at: Timestamp,
    ) -> i64 {
        if !self.parameters.contains_key(name) {
            // A deleted parameter starts again at version 1.
            self.versions.remove(name);
        }
        self.parameters.insert(name.to_owned(), text.to_owned());
        self.modified.insert(name.to_owned(), at);
        let versions = self.versions.entry(name.to_owned()).or_default();
        let number = versions.last().map_or(1, |version| version.number + 1);
        let (text, description) = (text.to_owned(), description.to_owned());
        versions.push(Version { number, text, description, at });
        if versions.len() > VERSIONS {
            versions.remove(0);
        }
        number
    }

    pub(super) fn ssm(
        &mut self,
        target: &str,
        asked: &Value,
        now: Timestamp,
    ) -> Result<Value, Fault> {
        const NOT_FOUND: Fault = Fault::Refused(400, "ParameterNotFound");
        let name = text(&asked["Name"]);
        let kind = if self.secure.contains(&name) { "SecureString" } else { "String" };
        match target {
            "AmazonSSM.GetParameter" => {
                assert_eq!(asked["WithDecryption"], true);
                let value = self.parameters.get(&name).ok_or(NOT_FOUND)?;
                let modified = self.modified.get(&name).copied().unwrap_or_default();
                let versions = self.versions.get(&name);
                let version = versions.and_then(|versions| versions.last()).map_or(1, |v| v.number);
                Ok(json!({"Parameter": {
                    "Name": name, "Type": kind, "Value": value, "Version": version,
                    "LastModifiedDate": seconds(modified),
                }}))
            }
            "AmazonSSM.PutParameter" => {
                let (text, description) = (text(&asked["Value"]), text(&asked["Description"]));
                assert_eq!(asked["Type"], "String");
                if text.is_empty() || text.chars().count() > TEXT_LIMIT {
                    return Err(Fault::Refused(400, "ValidationException"));
                }
                if let Some(at) = self.ssm_between.iter().position(|(other, _)| *other == name)
                    && let Some((_, other)) = self.ssm_between.remove(at)
                {
                    self.put_parameter(&name, &other, "", now);
                }
                if asked["Overwrite"] != true && self.parameters.contains_key(&name) {
                    return Err(Fault::Refused(400, "ParameterAlreadyExists"));
                }
                let version = self.put_parameter(&name, &text, &description, now);
                self.writes.push(Write { at: now, name, text });
                Ok(json!({"Version": version, "Tier": "Standard"}))
            }
            "AmazonSSM.GetParameterHistory" => {
                if !self.parameters.contains_key(&name) {
                    return Err(NOT_FOUND);
                }
                let versions = self.versions.get(&name).map_or(&[][..], |versions| versions);
                let most = asked["MaxResults"].as_u64().unwrap_or(PAGE);
                assert!((1..=PAGE).contains(&most), "SSM gives no page of {most}");
                let from: usize = text(&asked["NextToken"]).parse().unwrap_or_default();
                let to = from + usize::try_from(most).unwrap_or_default();
                let page = versions.iter().skip(from).take(to - from).map(|version| {
                    json!({
                        "Name": name, "Type": kind, "Value": version.text, "Version": version.number,
                        "Description": version.description, "LastModifiedDate": seconds(version.at),
                    })
                });
                let mut answer = json!({"Parameters": page.collect::<Vec<_>>()});
                if to < versions.len() {
                    answer["NextToken"] = json!(to.to_string());
                }
                Ok(answer)
            }
            "AmazonSSM.DeleteParameter" => {
                self.parameters.remove(&name).ok_or(NOT_FOUND)?;
                self.modified.remove(&name);
                self.versions.remove(&name);
                Ok(json!({}))
            }
            other => panic!("the relay never makes this call: {other}"),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "as SSM writes it")]
fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}
