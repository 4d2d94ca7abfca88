//! Parameter Store.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Fault, State, text};

/// The most characters of a standard parameter's text.
const TEXT_LIMIT: usize = 4_096;

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

impl State {
    pub(super) fn ssm(
        &mut self,
        target: &str,
        asked: &Value,
        now: Timestamp,
    ) -> Result<Value, Fault> {
        let name = text(&asked["Name"]);
        match target {
            "AmazonSSM.GetParameter" => {
                assert_eq!(asked["WithDecryption"], true);
                let value = self.parameters.get(&name);
                let value = value.ok_or(Fault::Refused(400, "ParameterNotFound"))?;
                let modified = self.modified.get(&name).copied().unwrap_or_default();
                #[expect(clippy::cast_precision_loss, reason = "as SSM writes it")]
                let modified = modified.as_millisecond() as f64 / 1000.0;
                let kind = if self.secure.contains(&name) { "SecureString" } else { "String" };
                Ok(json!({"Parameter": {
                    "Name": name, "Type": kind, "Value": value, "LastModifiedDate": modified,
                }}))
            }
            "AmazonSSM.PutParameter" => {
                let text = text(&asked["Value"]);
                assert_eq!((&asked["Overwrite"], &asked["Type"]), (&json!(true), &json!("String")));
                if text.is_empty() || text.chars().count() > TEXT_LIMIT {
                    return Err(Fault::Refused(400, "ValidationException"));
                }
                self.parameters.insert(name.clone(), text.clone());
                self.modified.insert(name.clone(), now);
                self.writes.push(Write { at: now, name, text });
                Ok(json!({"Version": self.writes.len(), "Tier": "Standard"}))
            }
            other => panic!("not ours to call: {other}"),
        }
    }
}
