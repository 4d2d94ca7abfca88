//! The contract with receivers: the schema, its `OpenAPI` description, and the types that generators make of it.

#![expect(clippy::unwrap_used, reason = "all of this crate is a test")]

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use testing::{destination::violations, root, template::yaml};

const SCHEMA: &str = "schemas/delivery.v1.json";
const OPENAPI: &str = "schemas/delivery.openapi.yaml";

fn schema() -> Value {
    serde_json::from_str(&fs::read_to_string(root().join(SCHEMA)).unwrap()).unwrap()
}

/// The request that the `OpenAPI` description is about.
fn described() -> Value {
    yaml(OPENAPI)["webhooks"]["delivery"]["post"].take()
}

fn examples(described: &Value) -> Vec<Value> {
    let examples = &described["requestBody"]["content"]["application/json"]["examples"];
    examples.as_object().unwrap().values().map(|example| example["value"].clone()).collect()
}

/// A delivery of each version that the relay has had, and each example.
fn deliveries() -> Vec<Value> {
    let versions = fs::read_dir(root().join("shared/tests/golden")).unwrap();
    let paths = versions.map(|version| version.unwrap().path().join("delivery.json"));
    let golden = paths.filter_map(|path| fs::read(path).ok());
    let golden = golden.map(|json| serde_json::from_slice(&json).unwrap());
    golden.chain(examples(&described())).collect()
}

/// Python with what tools/receivers.txt lists.
fn python() -> Command {
    let path: PathBuf = root().join(".tools/receivers/bin/python");
    assert!(path.exists(), "the packages of tools/receivers.txt, which \"make test\" installs");
    let mut command = Command::new(path);
    command.current_dir(root());
    command
}

#[test]
fn the_examples_and_every_versions_deliveries_fit_the_schema() {
    let deliveries = deliveries();
    assert!(deliveries.len() >= 4, "{} deliveries", deliveries.len());
    for delivery in deliveries {
        assert_eq!(violations(&delivery), [""; 0], "{delivery:#}");
    }
    let kinds = ["included", "covered"].map(|snapshot| {
        examples(&described()).iter().any(|example| example["events"][0]["snapshot"] == snapshot)
    });
    assert_eq!(kinds, [true, true]);
}

#[test]
fn the_openapi_description_is_valid_and_refers_to_the_schema() {
    let linted = python().args(["-m", "openapi_spec_validator", OPENAPI]).output().unwrap();
    assert!(linted.status.success(), "{linted:?}");
    let (described, schema) = (described(), schema());
    let content = &described["requestBody"]["content"]["application/json"];
    assert_eq!(content["schema"], json!({"$ref": "delivery.v1.json"}));
    let key = &described["parameters"][0];
    assert_eq!(key["name"], "idempotency-key");
    assert_eq!(key["schema"]["pattern"], schema["properties"]["id"]["pattern"]);
    let version = yaml(OPENAPI)["info"]["version"].as_str().unwrap().to_owned();
    assert!(schema["description"].as_str().unwrap().contains(&format!("version {version};")));
}

#[test]
fn the_schema_has_an_absolute_id_and_only_internal_references() {
    let schema = schema();
    assert_eq!(schema["$id"], "urn:gladly-relay:delivery:1");
    let text = schema.to_string();
    assert_eq!(text.matches("\"$ref\":").count(), text.matches("\"$ref\":\"#/$defs/").count());
}

/// The relay passes on any list that Gladly gives.
#[test]
fn custom_attributes_are_typed_and_every_list_fits() {
    let types = &schema()["$defs"]["customAttribute"]["properties"];
    let names: Vec<_> = types.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["id", "value"]);
    let examples = examples(&described());
    let mut delivery =
        examples.iter().find(|it| it["conversations"][0].is_object()).unwrap().clone();
    for list in [
        json!([]),
        json!([{"id": "a", "value": 1.5}, {"id": "a", "value": {"of": ["any", null]}}]),
        json!([{}, {"id": 5, "value": null, "more": true}]),
        json!([null, 1, "text", [], [{"id": "a"}]]),
    ] {
        delivery["conversations"][0]["customAttributes"] = list;
        assert_eq!(violations(&delivery), [""; 0], "{delivery:#}");
    }
}

/// Generates types for Python, reads the deliveries on standard input with them, and prints each type's fields.
const GENERATE: &str = r#"
import importlib.util, json, sys, tempfile
from pathlib import Path
from datamodel_code_generator import DataModelType, InputFileType, PythonVersion, generate
from pydantic import BaseModel

with tempfile.TemporaryDirectory() as folder:
    output = Path(folder, "delivery.py")
    generate(Path(sys.argv[1]), input_file_type=InputFileType.JsonSchema, output=output,
             output_model_type=DataModelType.PydanticV2BaseModel, target_python_version=PythonVersion.PY_310,
             formatters=[])
    spec = importlib.util.spec_from_file_location("delivery", output)
    module = sys.modules["delivery"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
for delivery in json.load(sys.stdin):
    module.Delivery.model_validate(delivery)
is_model = lambda it: isinstance(it, type) and issubclass(it, BaseModel) and it.__module__ == "delivery"
print(json.dumps({name: it.__annotations__ for name, it in vars(module).items() if name.isidentifier() and is_model(it)}))
"#;

#[test]
fn generated_types_are_the_schemas_and_read_every_delivery() {
    let mut command = python();
    command.args(["-c", GENERATE, SCHEMA]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let deliveries = serde_json::to_vec(&deliveries()).unwrap();
    process.stdin.take().unwrap().write_all(&deliveries).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success());
    let types: Value = serde_json::from_slice(&output.stdout).unwrap();
    // One type for each thing, and none with a number at its end or a name made from a sentence.
    let names: Vec<_> = types.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "Author",
            "Conversation",
            "CustomAttribute",
            "Customer",
            "Delivery",
            "Event",
            "Id",
            "Instant",
            "Item",
            "Named",
            "Participant",
            "Tombstone",
            "Topic",
        ]
    );
    for (name, field, expected) in [
        ("Delivery", "events", "list[Event]"),
        ("Delivery", "conversations", "list[Conversation]"),
        ("Delivery", "tombstones", "list[Tombstone] | None"),
        ("Conversation", "customAttributes", "list[CustomAttribute] | None"),
        ("Conversation", "topics", "list[Topic] | None"),
        ("Conversation", "items", "list[Item]"),
        ("CustomAttribute", "value", "Any | None"),
        ("Topic", "id", "constr(min_length=1)"),
        ("Tombstone", "from_", "Id | None"),
        ("Event", "initiator", "Participant | None"),
        ("Item", "responder", "Participant | None"),
    ] {
        let annotation = types[name][field].as_str().unwrap_or_default();
        assert!(annotation.starts_with(expected), "{name}.{field}: {annotation}");
    }
}
