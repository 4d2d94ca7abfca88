//! A customer as it is delivered.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;
use shared::Id;

use crate::client::json::{Field, Fields, inner};

/// A customer as it is delivered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Customer<'a> {
    id: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    emails: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phones: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_customer_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_customer_ids: Field<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_attributes: Field<'a>,
}

impl<'a> Customer<'a> {
    /// Reads a profile. `requested` is the id if the profile has no valid one.
    pub(crate) fn read(profile: &'a str, requested: &'a Id, contact: bool) -> Option<Self> {
        let profile = Fields::read(profile)?;
        let id = profile.text("id").filter(|id| id.parse::<Id>().is_ok());
        let addresses = |name| profile.list(name).map(addresses);
        Some(Self {
            id: id.unwrap_or_else(|| requested.as_str().into()),
            name: profile.text("name"),
            emails: Some("emails").filter(|_| contact).and_then(addresses),
            phones: Some("phones").filter(|_| contact).and_then(addresses),
            external_customer_id: profile.text("externalCustomerId").filter(|_| contact),
            external_customer_ids: profile.object("externalCustomerIds").filter(|_| contact),
            custom_attributes: profile.object("customAttributes"),
        })
    }
}

/// Addresses or numbers, normalized where Gladly has a normalized form.
fn addresses(list: Vec<&RawValue>) -> Vec<String> {
    let one = |raw| inner(Some(raw), "normalized").or_else(|| inner(Some(raw), "original"));
    list.into_iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_customer_has_normalized_addresses_and_numbers() {
        let profile = r#"{"id":"u","name":"","emails":[{"original":"Sam@Example.com","normalized":"sam@example.com"},{"original":"x@example.com"},7],
                          "phones":[{"original":"(555) 0100","normalized":""}],"externalCustomerId":"e","customAttributes":{"plan":"gold"}}"#;
        let asked_for: Id = "asked".parse().unwrap();
        let read = |profile: &str, contact| {
            serde_json::to_value(Customer::read(profile, &asked_for, contact).unwrap()).unwrap()
        };
        assert_eq!(
            read(profile, true),
            json!({"id": "u", "emails": ["sam@example.com", "x@example.com"], "phones": ["(555) 0100"],
                   "externalCustomerId": "e", "customAttributes": {"plan": "gold"}})
        );
        assert_eq!(read(profile, false), json!({"id": "u", "customAttributes": {"plan": "gold"}}));
        assert_eq!(read(r#"{"id":"../x"}"#, true), json!({"id": "asked"}));
    }
}
