//! The configuration of sam for one stack. One `samconfig.toml` for all would send the first stack's
//! parameters to every other.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use crate::{
    error::{Error, Result},
    session::Session,
};

/// What this program reads of it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct SamConfig {
    pub(super) stack_name: Option<String>,
    pub(super) region: Option<String>,
    pub(super) profile: Option<String>,
    /// Whether it names the bucket for packages, beside which sam accepts no `--resolve-s3`.
    pub(super) has_bucket: bool,
    /// The template's parameters.
    pub(super) parameters: BTreeMap<String, String>,
    /// Whether it takes parameters from further files, which only sam reads.
    pub(super) has_includes: bool,
}

/// Where a stack's configuration is, and what it holds.
#[derive(Debug)]
pub(super) struct SamConfigFile {
    pub(super) path: PathBuf,
    /// `None` if there is no such file yet.
    pub(super) config: Option<SamConfig>,
}

impl SamConfigFile {
    /// The file of the session's stack, in the folder of the template.
    pub(super) fn find(folder: &Path, session: &Session) -> Result<Self> {
        let path = folder.join(format!("samconfig.{}.toml", session.stack));
        if let Some(config) = read(&path)? {
            config.check(&path, session)?;
            return Ok(Self { path, config: Some(config) });
        }
        // The name that sam itself prefers; whose it is, it says itself.
        let shared = folder.join("samconfig.toml");
        match read(&shared)? {
            Some(config) if config.stack_name.as_ref() == Some(&session.stack) => {
                config.check(&shared, session)?;
                Ok(Self { path: shared, config: Some(config) })
            }
            _ => Ok(Self { path, config: None }),
        }
    }

    /// Writes the file, which does not exist yet.
    pub(super) fn write(
        &self,
        session: &Session,
        parameters: &BTreeMap<String, String>,
    ) -> Result<()> {
        fs::write(&self.path, written(&session.stack, &session.region, parameters)).map_err(|err| {
            Error::failed(format!("could not write {}: {err}.", self.path.display()))
        })
    }

    /// Removes the file if it is as [`Self::write`] wrote it without parameters.
    pub(super) fn remove_unused(&self, session: &Session) {
        let unused = written(&session.stack, &session.region, &BTreeMap::new());
        if fs::read_to_string(&self.path).is_ok_and(|text| text == unused) {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// A parameter's value in the file.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        Some(self.config.as_ref()?.parameters.get(name)?.as_str())
    }

    /// Its name, for people.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

fn read(path: &Path) -> Result<Option<SamConfig>> {
    match fs::read_to_string(path) {
        Ok(text) => SamConfig::parse(&text)
            .map(Some)
            .map_err(|reason| Error::usage(format!("{} is not valid: {reason}.", path.display()))),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(Error::failed(format!("could not read {}: {err}.", path.display()))),
    }
}

impl SamConfig {
    fn parse(text: &str) -> std::result::Result<Self, String> {
        let document: Table =
            text.parse().map_err(|err: toml::de::Error| err.message().to_owned())?;
        let mut config = Self::default();
        // What holds for every command of sam, then what holds for this one.
        for command in ["global", "deploy"] {
            let found = ["default", command, "parameters"]
                .iter()
                .try_fold(&document, |table, key| table.get(*key)?.as_table());
            let Some(parameters) = found else { continue };
            // Both spellings are sam's.
            let text = |name: &str| {
                let value =
                    parameters.get(name).or_else(|| parameters.get(&name.replace('_', "-")));
                Some(value?.as_str()?.to_owned())
            };
            config.stack_name = text("stack_name").or(config.stack_name);
            config.region = text("region").or(config.region);
            config.profile = text("profile").or(config.profile);
            config.has_bucket |= text("s3_bucket").is_some();
            let overrides = parameters.get("parameter_overrides");
            if let Some(overrides) = overrides.or_else(|| parameters.get("parameter-overrides")) {
                config.parameters = read_overrides(overrides);
                config.has_includes =
                    config.parameters.contains_key("$include") || includes(overrides);
            }
        }
        Ok(config)
    }

    /// Refuses a file of another stack, region or login than the session's.
    fn check(&self, path: &Path, session: &Session) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let refuse = |what: &str, theirs: &str, how: &str| {
            Err(Error::usage(format!("{name} has the {what} {theirs}; {how}.")))
        };
        if let Some(stack) = self.stack_name.as_ref().filter(|stack| **stack != session.stack) {
            let how = format!(
                "expected {}: it would deploy that stack's parameters, so correct its name or its contents",
                session.stack
            );
            return refuse("stack_name", stack, &how);
        }
        if let Some(region) = self.region.as_ref().filter(|region| **region != session.region) {
            let how = format!(
                "this command is about {}: pass --region {region}, or correct the file",
                session.region
            );
            return refuse("region", region, &how);
        }
        let profile = session.profile.clone().or_else(|| std::env::var("AWS_PROFILE").ok());
        if let Some(theirs) =
            self.profile.as_ref().filter(|theirs| Some(*theirs) != profile.as_ref())
        {
            let how = format!(
                "this command uses {}: pass --profile {theirs}, or correct the file",
                profile.as_deref().unwrap_or("none")
            );
            return refuse("profile", theirs, &how);
        }
        Ok(())
    }
}

/// Parameters as sam takes them in a file: one text, a list of texts, or a table.
fn read_overrides(overrides: &Value) -> BTreeMap<String, String> {
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(value) => value.to_string(),
        _ => String::new(),
    };
    match overrides {
        Value::Table(table) => {
            table.iter().map(|(name, value)| (name.clone(), plain(value))).collect()
        }
        Value::Array(items) => items.iter().flat_map(read_overrides).collect(),
        other => split_words(&plain(other)).iter().filter_map(|word| pair(word)).collect(),
    }
}

/// Whether any is `file://…`.
fn includes(overrides: &Value) -> bool {
    match overrides {
        Value::Array(items) => items.iter().any(includes),
        other => other.as_str().is_some_and(|text| text.starts_with("file://")),
    }
}

/// `Key=Value`, or `ParameterKey=Key,ParameterValue=Value`, without quotes already.
fn pair(word: &str) -> Option<(String, String)> {
    let pair = match word.strip_prefix("ParameterKey=") {
        Some(rest) => rest.split_once(",ParameterValue="),
        None => word.split_once('='),
    };
    pair.map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// The words of a text, in which quotes hold spaces, and a backslash holds a quote or a space.
fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', _) => {
                word.push(
                    characters.next_if(|next| matches!(next, '"' | '\'' | ' ')).unwrap_or('\\'),
                );
            }
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => quote = Some(character),
            (c, None) if c.is_whitespace() => words.push(std::mem::take(&mut word)),
            (c, _) => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// A parameter as sam takes it on its command line, and writes it into its file.
pub(super) fn quoted(name: &str, value: &str) -> String {
    format!("{name}=\"{}\"", value.replace('"', "\\\""))
}

/// A file as sam would write it.
fn written(stack: &str, region: &str, parameters: &BTreeMap<String, String>) -> String {
    // A string of JSON is one of TOML.
    let literal = |text: &str| serde_json::Value::from(text).to_string();
    let mut text = format!(
        "version = 0.1\n\n[default.deploy.parameters]\nstack_name = {}\nregion = {}\ncapabilities = \
         \"CAPABILITY_IAM\"\nresolve_s3 = true\n",
        literal(stack),
        literal(region)
    );
    if !parameters.is_empty() {
        text.push_str("parameter_overrides = [\n");
        for (name, value) in parameters {
            let _ = writeln!(text, "  {},", literal(&quoted(name, value)));
        }
        text.push_str("]\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides(text: &str) -> BTreeMap<String, String> {
        SamConfig::parse(text).unwrap().parameters
    }

    #[test]
    fn what_sam_writes_is_read() {
        let config = SamConfig::parse(
            r#"
version = 0.1
[default.deploy.parameters]
stack_name = "acme"
resolve_s3 = true
s3_prefix = "acme"
region = "eu-west-1"
profile = "work"
confirm_changeset = true
capabilities = "CAPABILITY_IAM"
parameter_overrides = "GladlyHost=\"acme.gladly.com\" AlarmEmail=\"\" DestinationUrl=\"https://x.example/?q=\\\"a b\\\"\" RetentionDays=\"4\""
[default.global.parameters]
region = "us-east-1"
"#,
        )
        .unwrap();
        assert_eq!(config.stack_name.as_deref(), Some("acme"));
        assert_eq!(config.region.as_deref(), Some("eu-west-1"));
        assert_eq!(config.profile.as_deref(), Some("work"));
        assert!(!config.has_bucket);
        let expected = [
            ("AlarmEmail", ""),
            ("DestinationUrl", "https://x.example/?q=\"a b\""),
            ("GladlyHost", "acme.gladly.com"),
            ("RetentionDays", "4"),
        ];
        assert_eq!(
            config.parameters,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
        );
    }

    #[test]
    fn parameters_are_read_in_every_form_that_sam_takes() {
        let expected = BTreeMap::from([("A".to_owned(), "1".into()), ("B".into(), "x y".into())]);
        for form in [
            r#"parameter_overrides = "A=1 B='x y'""#,
            r#"parameter_overrides = ["A=1", "B=\"x y\""]"#,
            r#"parameter_overrides = "ParameterKey=A,ParameterValue=1 ParameterKey=B,ParameterValue=\"x y\"""#,
            "parameter-overrides = {A = 1, B = \"x y\"}",
            "parameter_overrides = [{A = 1}, \"B='x y'\"]",
        ] {
            let text = format!("[default.deploy.parameters]\n{form}");
            assert_eq!(overrides(&text), expected, "{form}");
        }
        assert!(SamConfig::parse("stack_name = ").is_err());
        assert_eq!(SamConfig::parse("version = 0.1"), Ok(SamConfig::default()));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let parameters = BTreeMap::from([
            ("AlarmEmail".to_owned(), String::new()),
            ("DestinationUrl".into(), r#"https://x.example/?q="a\b""#.into()),
        ]);
        let config = SamConfig::parse(&written("acme", "eu-west-1", &parameters)).unwrap();
        assert_eq!(config.parameters, parameters);
        assert_eq!(config.stack_name.as_deref(), Some("acme"));
        assert_eq!(config.region.as_deref(), Some("eu-west-1"));
    }
}
