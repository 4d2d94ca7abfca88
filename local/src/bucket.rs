//! A bucket of the emulated S3, and what DuckDB reads from it by the statements of docs/DESTINATIONS.md.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use testing::root;

use crate::emulator::{Emulator, EmulatorError};

/// Runs the statements that standard input has, and prints the rows of the last one, a JSON object each.
const DUCKDB: &str = r#"
import duckdb, json, sys

views, query = json.load(sys.stdin)
database = duckdb.connect(config={"autoinstall_known_extensions": "false"})
database.execute(views)
found = database.sql(query)
for row in found.fetchall():
    print(json.dumps(dict(zip(found.columns, row))))
"#;

/// A bucket.
#[derive(Debug)]
pub struct Bucket<'a> {
    emulator: &'a Emulator,
    name: String,
}

/// What a bucket held at some time: the objects by key.
#[derive(Debug, Default)]
pub struct Objects(BTreeMap<String, Vec<u8>>);

impl<'a> Bucket<'a> {
    /// Makes a bucket.
    pub async fn create(emulator: &'a Emulator, name: &str) -> Result<Self, EmulatorError> {
        emulator.put_object(&format!("/{name}"), Vec::new()).await?;
        Ok(Self { emulator, name: name.to_owned() })
    }

    /// Puts an object.
    pub async fn put(&self, key: &str, body: Vec<u8>) -> Result<(), EmulatorError> {
        self.emulator.put_object(&format!("/{}/{key}", self.name), body).await
    }

    /// Reads every object.
    pub async fn objects(&self) -> Result<Objects, EmulatorError> {
        let mut objects = BTreeMap::new();
        for key in self.emulator.keys(&self.name).await? {
            let body = self.emulator.object(&format!("/{}/{key}", self.name)).await?;
            objects.insert(key, body);
        }
        Ok(Objects(objects))
    }
}

impl Objects {
    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The lines of all objects of a kind (`events`), repeats included.
    pub fn lines(&self, kind: &str) -> io::Result<Vec<Value>> {
        let part = format!("/{kind}/organization=");
        let mut lines = Vec::new();
        for body in self.0.iter().filter(|(key, _)| key.contains(&part)).map(|(_, body)| body) {
            let mut text = String::new();
            GzDecoder::new(&**body).read_to_string(&mut text)?;
            let read = text.lines().map(serde_json::from_str).collect::<Result<Vec<_>, _>>();
            lines.extend(read.map_err(io::Error::from)?);
        }
        Ok(lines)
    }

    /// The deliveries that the objects were made of, but for `sentAt`, which no line has.
    pub fn deliveries(&self) -> io::Result<Vec<Value>> {
        let mut deliveries = BTreeMap::<String, Value>::new();
        for kind in ["conversations", "events", "tombstones"] {
            for mut line in self.lines(kind)? {
                let members = line.as_object_mut().ok_or(io::ErrorKind::InvalidData)?;
                let mut take = |name| members.remove(name).unwrap_or_default();
                let [schema, id, organization] =
                    ["schema", "deliveryId", "organization"].map(&mut take);
                let key = id.to_string();
                let delivery = deliveries.entry(key).or_insert_with(|| {
                    json!({
                        "schema": schema, "id": id, "organization": organization,
                        "sentAt": "2026-01-01T00:00:00.000Z", "events": [], "conversations": [],
                    })
                });
                if delivery[kind].is_null() {
                    delivery[kind] = json!([]);
                }
                delivery[kind].as_array_mut().ok_or(io::ErrorKind::InvalidData)?.push(line);
            }
        }
        Ok(deliveries.into_values().collect())
    }

    /// The rows of a query on the views of docs/DESTINATIONS.md, over these objects as files in a folder. `prefix` is
    /// what the keys begin with.
    pub fn query(&self, folder: &Path, prefix: &str, query: &str) -> io::Result<Vec<Value>> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        for (key, body) in &self.0 {
            let file = folder.join(key);
            fs::create_dir_all(file.parent().unwrap_or(folder))?;
            fs::write(file, body)?;
        }
        let place = folder.join(prefix);
        let views = views()?.replace("s3://BUCKET/PREFIX", &place.to_string_lossy());
        let python = root().join(".tools/venv/bin/python");
        let mut child = Command::new(python)
            .args(["-c", DUCKDB])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(json!([views, query]).to_string().as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            return Err(io::Error::other("DuckDB failed; its message is above"));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().map(|line| serde_json::from_str(line).map_err(io::Error::from)).collect()
    }
}

/// The statements for DuckDB in docs/DESTINATIONS.md.
fn views() -> io::Result<String> {
    let page = fs::read_to_string(root().join("docs/DESTINATIONS.md"))?;
    let part = page.split("\n## ").find(|part| part.starts_with("DuckDB")).unwrap_or_default();
    let blocks = part.split("```sql\n").skip(1);
    let blocks = blocks.filter_map(|block| Some(block.split_once("\n```")?.0));
    Ok(blocks.collect::<Vec<_>>().join("\n"))
}
