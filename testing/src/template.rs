//! `template.yaml` as data, for the tests that read it.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a template that cannot be read fails the test"
)]

use std::fs;

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value, json};

use crate::root;

/// The template, its tags in the long form: `!Ref x` as `{"Ref": "x"}`, `!Sub x` as `{"Fn::Sub": "x"}`.
#[must_use]
pub fn read() -> Value {
    yaml("template.yaml")
}

/// A YAML file of the repository.
#[must_use]
pub fn yaml(path: &str) -> Value {
    let text = fs::read_to_string(root().join(path)).expect(path);
    let documents = Yaml::load_from_str(&text).expect(path);
    assert_eq!(documents.len(), 1, "{path} is one document");
    json_of(&documents[0])
}

fn json_of(node: &Yaml<'_>) -> Value {
    match node {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => json!(value),
        Yaml::Value(Scalar::Integer(value)) => json!(value),
        Yaml::Value(Scalar::FloatingPoint(value)) => json!(value.0),
        Yaml::Value(Scalar::String(value)) => json!(value),
        Yaml::Sequence(nodes) => nodes.iter().map(json_of).collect(),
        Yaml::Mapping(entries) => {
            let mut object = Map::new();
            for (key, value) in entries {
                let key = key.as_str().expect("a key is text").to_owned();
                object.insert(key, json_of(value));
            }
            Value::Object(object)
        }
        Yaml::Tagged(tag, node) => {
            let name = match tag.suffix.as_str() {
                "Ref" => "Ref".to_owned(),
                function => format!("Fn::{function}"),
            };
            Value::Object(Map::from_iter([(name, json_of(node))]))
        }
        Yaml::Representation(..) | Yaml::Alias(_) | Yaml::BadValue => {
            panic!("unexpected node {node:?}")
        }
    }
}
