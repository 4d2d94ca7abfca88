//! The change set of one run: the one that this run created and no other, and what it changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aws_sdk_cloudformation::{
    Client,
    types::{ChangeSetStatus, ResourceAttribute, ResourceChange},
};
use serde::Serialize;
use tokio::{runtime::Handle, task::block_in_place, time::timeout};

use crate::{
    Context,
    commands::deploy::sam::created_change_set,
    error::{Error, Result, explain},
    relay::Relay,
};

/// How sam names its change sets.
const PREFIX: &str = "samcli-deploy";
/// How long a stopped run takes to remove its change set.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(10);

/// A change set as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    id: String,
    name: String,
    /// Whether it failed, as one without any change does.
    is_failed: bool,
}

/// The change sets of a stack, from before this run created its own.
pub(super) struct ChangeSets<'a> {
    context: &'a Context,
    client: Client,
    stack: String,
    before: BTreeSet<String>,
    /// The one that this run created.
    created: Option<String>,
    /// Whether there may be one to remove.
    is_armed: bool,
}

impl<'a> ChangeSets<'a> {
    /// Notes what others left.
    pub(super) async fn note(context: &'a Context, relay: &Relay) -> Result<Self> {
        let client = Client::new(&relay.session.config);
        let mut noted = Self {
            context,
            client,
            stack: relay.name.clone(),
            before: BTreeSet::new(),
            created: None,
            is_armed: false,
        };
        if relay.status.is_some() {
            noted.before = noted.list().await?.into_iter().map(|listed| listed.id).collect();
        }
        noted.is_armed = true;
        Ok(noted)
    }

    async fn list(&self) -> Result<Vec<Listed>> {
        let mut pages =
            self.client.list_change_sets().stack_name(&self.stack).into_paginator().items().send();
        let mut all = Vec::new();
        while let Some(summary) = pages.next().await {
            let summary = summary.map_err(|err| explain("could not list the change sets", &err))?;
            all.push(Listed {
                id: summary.change_set_id.unwrap_or_default(),
                name: summary.change_set_name.unwrap_or_default(),
                is_failed: summary.status == Some(ChangeSetStatus::Failed),
            });
        }
        Ok(all)
    }

    /// Finds the one that this run created; `None` if there is nothing to change.
    pub(super) async fn find(&mut self, printed: &str) -> Result<Option<&str>> {
        // The one that sam names is this run's, unless it was there before.
        if let Some(named) = created_change_set(printed).filter(|id| !self.before.contains(*id)) {
            self.created = Some(named.to_owned());
            return Ok(self.created.as_deref());
        }
        let new = self.new_ones().await?;
        let created = empty_one(&new).map_err(|names| {
            // Which one is to be removed is as unclear.
            self.is_armed = false;
            Error::failed(format!(
                "several changes of {} were prepared at the same time ({names}), and nothing was executed; when the \
                 others are done, deploy again.",
                self.stack
            ))
        })?;
        self.created = created.map(|created| created.id.clone());
        self.discard().await;
        Ok(None)
    }

    async fn new_ones(&self) -> Result<Vec<Listed>> {
        let mut all = self.list().await?;
        all.retain(|listed| !self.before.contains(&listed.id));
        Ok(all)
    }

    /// Removes what this run created: the change set that sam named or, if sam was stopped before that, the
    /// only one that appeared meanwhile under a name of sam's.
    pub(super) async fn discard(&mut self) {
        if !std::mem::take(&mut self.is_armed) {
            return;
        }
        if timeout(DISCARD_TIMEOUT, self.remove()).await != Ok(true) {
            self.context.remark_of_change_set(&self.stack);
        }
    }

    /// Whether nothing remains.
    async fn remove(&self) -> bool {
        let created = match &self.created {
            Some(created) => Some(created.clone()),
            None => match self.new_ones().await.as_deref() {
                Ok([only]) if only.name.starts_with(PREFIX) => Some(only.id.clone()),
                Ok([]) => None,
                Err(error) if error.is_not_found() => None,
                Ok(_) | Err(_) => return false,
            },
        };
        let Some(created) = created else { return true };
        let removed = self.client.delete_change_set().change_set_name(created).send().await;
        removed.is_ok()
    }

    /// From now on the change set is CloudFormation's.
    pub(super) fn release(&mut self) {
        self.is_armed = false;
    }
}

impl Context {
    fn remark_of_change_set(&self, stack: &str) {
        self.terminal.remark(&format!(
            "A change set of {stack} named {PREFIX}… may be left over; it changes nothing unless it is executed."
        ));
    }
}

/// Ctrl-C drops the command wherever it waits.
impl Drop for ChangeSets<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            block_in_place(|| Handle::current().block_on(self.discard()));
        }
    }
}

/// The new one that sam did not name: without changes it names none, and CloudFormation leaves it as
/// failed. Others of sam are somebody else's; they are an error with their names.
fn empty_one(new: &[Listed]) -> std::result::Result<Option<&Listed>, String> {
    let of_sam: Vec<_> = new.iter().filter(|listed| listed.name.starts_with(PREFIX)).collect();
    match &*of_sam {
        [] => Ok(None),
        [only] if only.is_failed => Ok(Some(only)),
        several => Err(several.iter().map(|each| &*each.name).collect::<Vec<_>>().join(", ")),
    }
}

/// A parameter of the template that changes.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(super) struct ParameterChange {
    pub(super) name: String,
    /// `null` for a new one.
    pub(super) from: Option<String>,
    /// `null` for one that is removed.
    pub(super) to: Option<String>,
}

/// A resource that changes.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(super) struct Change {
    /// `Add`, `Modify`, `Remove`, …
    pub(super) action: String,
    pub(super) logical_id: String,
    #[serde(rename = "type")]
    pub(super) resource_type: String,
    /// `True`, `False` or `Conditional`, for what is modified.
    pub(super) replacement: Option<String>,
    /// Whether properties or tags are written.
    #[serde(skip)]
    pub(super) is_written: bool,
}

impl From<ResourceChange> for Change {
    fn from(change: ResourceChange) -> Self {
        // Writing tags, CloudFormation writes the other properties too.
        let writes = [ResourceAttribute::Properties, ResourceAttribute::Tags];
        Self {
            action: change.action.map(|action| action.as_str().to_owned()).unwrap_or_default(),
            logical_id: change.logical_resource_id.unwrap_or_default(),
            resource_type: change.resource_type.unwrap_or_default(),
            replacement: change.replacement.map(|replacement| replacement.as_str().to_owned()),
            is_written: change.scope.iter().flatten().any(|scope| writes.contains(scope)),
        }
    }
}

/// Everything that a change set changes.
#[derive(Debug, Default, Serialize)]
pub(super) struct Changes {
    pub(super) parameters: Vec<ParameterChange>,
    pub(super) resources: Vec<Change>,
}

impl Changes {
    /// Reads them, page by page.
    pub(super) async fn describe(relay: &Relay, change_set: &str) -> Result<Self> {
        let client = Client::new(&relay.session.config);
        let mut pages =
            client.describe_change_set().change_set_name(change_set).into_paginator().send();
        let mut resources = Vec::new();
        let mut parameters = BTreeMap::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|err| explain("could not read the prepared change", &err))?;
            for parameter in page.parameters.unwrap_or_default() {
                let name = parameter.parameter_key.unwrap_or_default();
                let value = match parameter.use_previous_value {
                    Some(true) => relay.parameters.get(&name).cloned(),
                    _ => parameter.parameter_value,
                };
                parameters.insert(name, value.unwrap_or_default());
            }
            let changes = page.changes.unwrap_or_default();
            resources.extend(
                changes.into_iter().filter_map(|change| change.resource_change).map(Change::from),
            );
        }
        Ok(Self { parameters: compared(&relay.parameters, parameters), resources })
    }

    /// What becomes of a parameter, if it changes.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|change| change.name == name)?.to.as_deref()
    }

    /// What happens to a resource, if anything does.
    pub(super) fn resource(&self, logical_id: &str) -> Option<&Change> {
        self.resources.iter().find(|change| change.logical_id == logical_id)
    }

    /// Shows them to a person.
    pub(super) fn show(&self, context: &Context, stack: &str) {
        let say = |line: &str| context.terminal.say(line);
        say(&format!("Changes of {stack}:"));
        let value = |value: &Option<String>| match value.as_deref() {
            None => "(none)".to_owned(),
            Some("") => "(empty)".to_owned(),
            Some(value) => value.to_owned(),
        };
        for change in &self.parameters {
            let (name, from, to) = (&change.name, value(&change.from), value(&change.to));
            say(&format!("  {:<9} {name:<28} {from} → {to}", "parameter"));
        }
        for change in &self.resources {
            let note = match (&*change.action, change.replacement.as_deref()) {
                ("Modify", Some("True")) => ", which replaces it",
                ("Modify", Some("Conditional")) => ", which may replace it",
                _ => "",
            };
            let action = change.action.to_lowercase();
            say(&format!("  {action:<9} {:<28} {}{note}", change.logical_id, change.resource_type));
        }
    }
}

/// The parameters that differ.
fn compared(old: &BTreeMap<String, String>, new: BTreeMap<String, String>) -> Vec<ParameterChange> {
    let removed = old.iter().filter(|(name, _)| !new.contains_key(*name)).map(|(name, from)| {
        ParameterChange { name: name.clone(), from: Some(from.clone()), to: None }
    });
    let mut changes: Vec<_> = removed.collect();
    for (name, to) in new {
        let from = old.get(&name).cloned();
        if from.as_ref() != Some(&to) {
            changes.push(ParameterChange { name, from, to: Some(to) });
        }
    }
    changes.sort_by(|one, other| one.name.cmp(&other.name));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_change_set_of_sam_needs_no_name() {
        let listed = |id: &str, is_failed| Listed { id: id.into(), name: id.into(), is_failed };
        let empty = listed("samcli-deploy1", true);
        assert_eq!(empty_one(&[]), Ok(None));
        assert_eq!(empty_one(&[listed("by-hand", false)]), Ok(None));
        assert_eq!(empty_one(std::slice::from_ref(&empty)), Ok(Some(&empty)));
        // One that can be executed, and that sam did not name, is somebody else's.
        let other = listed("samcli-deploy2", false);
        assert_eq!(empty_one(std::slice::from_ref(&other)), Err("samcli-deploy2".into()));
        assert_eq!(empty_one(&[empty, other]), Err("samcli-deploy1, samcli-deploy2".into()));
    }

    #[test]
    fn parameters_are_compared() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        let old = map(&[("A", "1"), ("B", "2"), ("C", "3")]);
        let new = map(&[("A", "1"), ("B", "4"), ("D", "")]);
        let change = |name: &str, from: Option<&str>, to: Option<&str>| ParameterChange {
            name: name.into(),
            from: from.map(Into::into),
            to: to.map(Into::into),
        };
        assert_eq!(
            compared(&old, new),
            [
                change("B", Some("2"), Some("4")),
                change("C", Some("3"), None),
                change("D", None, Some("")),
            ]
        );
    }
}
