//! The emulated AWS: MiniStack on a loopback port, and plain calls to it.

mod client;

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use reqwest::{Method, Response};
use serde_json::Value;
use testing::{proxy::Proxy, root};

pub use self::client::Client;
use self::client::answer;

/// How long the emulator may take to start; it needs less than two seconds on a quiet machine.
const STARTUP_TIMEOUT: Duration = Duration::from_mins(1);

/// Runs MiniStack until standard input ends, as it does when this process ends in any way: a test that aborts
/// leaves no emulator or function behind.
const RUN: &str = r#"
import os, shutil, signal, sys, threading

def end_with_parent():
    sys.stdin.buffer.read()
    shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
    os.killpg(0, signal.SIGKILL)

threading.Thread(target=end_with_parent, daemon=True).start()

# In conditions CloudFormation also evaluates Fn::Select and Fn::Split of parameters. MiniStack does so only elsewhere.
import ministack.services.cloudformation as cloudformation
from ministack.services.cloudformation import engine

def plain(value, parameters):
    if isinstance(value, list):
        return [plain(each, parameters) for each in value]
    if not isinstance(value, dict):
        return value
    if "Ref" in value and value["Ref"] in parameters:
        return parameters[value["Ref"]]["Value"]
    value = {name: plain(each, parameters) for name, each in value.items()}
    if "Fn::Split" in value:
        separator, text = value["Fn::Split"]
        return text.split(separator)
    if "Fn::Select" in value:
        index, items = value["Fn::Select"]
        return engine._select(int(index), items)
    return value

def evaluated(template, parameters, of=engine._evaluate_conditions):
    conditions = plain(template.get("Conditions", {}), parameters)
    return of({**template, "Conditions": conditions}, parameters)

for module in [value for name, value in sys.modules.items() if name.startswith(cloudformation.__name__)]:
    if hasattr(module, "_evaluate_conditions"):
        module._evaluate_conditions = evaluated

sys.argv = ["ministack"]
from ministack.app import main
main()
"#;

/// Where an emulator keeps its files and listens.
#[derive(Debug)]
pub struct Options<'a> {
    /// Holds its log, `emulator.log`, and its files.
    pub folder: PathBuf,
    /// 0 takes a free port.
    pub port: u16,
    /// Stands between the functions and the AWS they call.
    pub proxy: Option<&'a Proxy>,
}

impl Options<'_> {
    /// In `.local/<name>`, on a free port, without a proxy.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { folder: root().join(".local").join(name), port: 0, proxy: None }
    }
}

/// An emulated AWS on loopback. Dropping it stops it and every function that it runs.
#[derive(Debug)]
pub struct Emulator {
    port: u16,
    log: PathBuf,
    client: Client,
    child: Child,
}

impl Emulator {
    /// Starts an emulator and waits until it answers.
    pub async fn start(options: &Options<'_>) -> Result<Self, EmulatorError> {
        let python = root().join(".tools/venv/bin/python");
        if !python.exists() {
            return Err(EmulatorError::NoTools);
        }
        let port = match options.port {
            0 => free_port().map_err(EmulatorError::Start)?,
            port => port,
        };
        let log = options.folder.join("emulator.log");
        let client = Client::new(&format!("http://127.0.0.1:{port}"))?;
        let seen_by_functions = options.proxy.map_or(client.endpoint(), |proxy| {
            proxy.forward_to(client.endpoint());
            proxy.url()
        });
        let child = spawn(&python, &options.folder, &log, port, seen_by_functions)
            .map_err(EmulatorError::Start)?;
        let mut emulator = Self { port, log, client, child };
        emulator.wait_until_ready().await?;
        Ok(emulator)
    }

    async fn wait_until_ready(&mut self) -> Result<(), EmulatorError> {
        let started = Instant::now();
        while started.elapsed() < STARTUP_TIMEOUT {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                break;
            }
            if self.client.is_ready().await {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Err(EmulatorError::NotReady { log: self.log.clone() })
    }

    /// Where AWS clients send their calls.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.client.endpoint().to_owned()
    }

    /// The port of [`Emulator::endpoint`].
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process it is; the functions' are its children.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Its log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Calls SQS, as in `sqs("SendMessage", json!({"QueueUrl": …}))`.
    pub async fn sqs(&self, action: &str, body: Value) -> Result<Value, EmulatorError> {
        self.client.json("sqs", "AmazonSQS", action, body).await
    }

    /// Calls SSM, as in `ssm("GetParameter", json!({"Name": …}))`.
    pub async fn ssm(&self, action: &str, body: Value) -> Result<Value, EmulatorError> {
        self.client.ssm(action, body).await
    }

    /// Calls CloudWatch Logs, as in `logs("FilterLogEvents", json!({"logGroupName": …}))`.
    pub async fn logs(&self, action: &str, body: Value) -> Result<Value, EmulatorError> {
        self.client.json("logs", "Logs_20140328", action, body).await
    }

    /// Calls CloudWatch, as in `cloudwatch("PutMetricData", json!({"Namespace": …}))`.
    pub async fn cloudwatch(&self, action: &str, body: Value) -> Result<Value, EmulatorError> {
        self.client.json("monitoring", "GraniteServiceVersion20100801", action, body).await
    }

    /// Calls Lambda, whose actions are paths.
    pub async fn lambda(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Response, EmulatorError> {
        let call = self.client.request("lambda", method, &format!("/2015-03-31{path}")).json(body);
        answer(path, call).await
    }

    /// Calls CloudFormation, which takes a form and answers in XML.
    pub(crate) async fn cloudformation(
        &self,
        action: &str,
        mut fields: Vec<(String, String)>,
    ) -> Result<String, EmulatorError> {
        fields.push(("Action".to_owned(), action.to_owned()));
        fields.push(("Version".to_owned(), "2010-05-15".to_owned()));
        let call = self.client.request("cloudformation", Method::POST, "/").form(&fields);
        Ok(answer(action, call).await?.text().await?)
    }

    /// What CloudWatch has of a dashboard.
    pub(crate) async fn dashboard(&self, name: &str) -> Result<String, EmulatorError> {
        let fields =
            [("Action", "GetDashboard"), ("Version", "2010-08-01"), ("DashboardName", name)];
        let call = self.client.request("monitoring", Method::POST, "/").form(&fields);
        let found = answer("GetDashboard", call).await?.text().await?;
        Ok(texts(&found, "DashboardBody").pop().unwrap_or_default())
    }

    /// Puts an object, or makes the bucket when `path` is only that.
    pub(crate) async fn put_object(&self, path: &str, body: Vec<u8>) -> Result<(), EmulatorError> {
        answer("PutObject", self.client.request("s3", Method::PUT, path).body(body)).await?;
        Ok(())
    }

    /// The keys of a bucket's objects.
    pub(crate) async fn keys(&self, bucket: &str) -> Result<Vec<String>, EmulatorError> {
        let mut keys = Vec::new();
        loop {
            // A page has a thousand at most.
            let after = keys.last().map(String::as_str).unwrap_or_default();
            let path = format!("/{bucket}?list-type=2&start-after={after}");
            let list = self.client.request("s3", Method::GET, &path);
            let page = texts(&answer("ListObjectsV2", list).await?.text().await?, "Key");
            if page.is_empty() {
                return Ok(keys);
            }
            keys.extend(page);
        }
    }

    /// An object's content; `path` is the bucket and the key.
    pub(crate) async fn object(&self, path: &str) -> Result<Vec<u8>, EmulatorError> {
        let get = self.client.request("s3", Method::GET, path);
        Ok(answer("GetObject", get).await?.bytes().await?.to_vec())
    }

    /// A role's inline policies, as IAM has them.
    pub async fn role_policies(&self, role: &str) -> Result<Vec<String>, EmulatorError> {
        let call = async |action: &str, more: &[(&str, &str)]| {
            let common = [("Action", action), ("Version", "2010-05-08"), ("RoleName", role)];
            let fields = [&common[..], more].concat();
            let call = self.client.request("iam", Method::POST, "/").form(&fields);
            Ok::<_, EmulatorError>(answer(action, call).await?.text().await?)
        };
        let names = texts(&call("ListRolePolicies", &[]).await?, "member");
        let mut policies = Vec::new();
        for name in names {
            policies.push(call("GetRolePolicy", &[("PolicyName", &name)]).await?);
        }
        Ok(policies)
    }

    /// Every message of a queue, by the emulator's own means.
    pub(crate) async fn peek(&self, queue_url: &str) -> Result<Value, EmulatorError> {
        let path = format!("/_ministack/sqs/messages?QueueUrl={queue_url}");
        Ok(answer("peek", self.client.request("sqs", Method::GET, &path)).await?.json().await?)
    }

    /// Deletes the schedules whose names begin like this.
    pub(crate) async fn delete_schedules(&self, prefix: &str) -> Result<(), EmulatorError> {
        let list = self.client.request(
            "scheduler",
            Method::GET,
            &format!("/schedules?NamePrefix={prefix}"),
        );
        let found: Value = answer("ListSchedules", list).await?.json().await?;
        for schedule in found["Schedules"].as_array().into_iter().flatten() {
            let path = format!("/schedules/{}", schedule["Name"].as_str().unwrap_or_default());
            answer("DeleteSchedule", self.client.request("scheduler", Method::DELETE, &path))
                .await?;
        }
        Ok(())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // An error here cannot be handled.
        let _ = self.child.wait();
    }
}

/// The texts of an XML document's elements of one name, which must hold nothing but text.
pub(crate) fn texts(xml: &str, element: &str) -> Vec<String> {
    let open = format!("<{element}>");
    let text = |part: &str| {
        let end = part.find('<').unwrap_or(part.len());
        let escapes =
            [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#x27;", "'"), ("&amp;", "&")];
        escapes.iter().fold(part[..end].to_owned(), |text, (from, to)| text.replace(from, to))
    };
    xml.split(&open).skip(1).map(text).collect()
}

/// Starts it with an environment of its own: the functions inherit all of it, and must see neither a proxy nor an AWS
/// profile of the user who runs this.
fn spawn(
    python: &Path,
    folder: &Path,
    log: &Path,
    port: u16,
    seen_by_functions: &str,
) -> io::Result<Child> {
    let state = folder.join(format!("emulator-{port}"));
    fs::create_dir_all(&state)?;
    let output = File::create(log)?;
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    Command::new(python)
        .args(["-c", RUN])
        .env_clear()
        .env("PATH", path)
        .env("HOME", &state)
        .env("TMPDIR", &state)
        .env("STATE_DIR", state.join("state"))
        .env("S3_DATA_DIR", state.join("s3"))
        .env("BIND_HOST", "127.0.0.1")
        .env("GATEWAY_PORT", port.to_string())
        // Not an address: lambda_http refuses the host name that MiniStack would make of it.
        .env("MINISTACK_HOST", "localhost")
        .env("LAMBDA_EXECUTOR", "local")
        .env("IOT_MTLS_ENABLED", "0")
        .env("SFTP_ENABLED", "0")
        .env("AWS_ENDPOINT_URL", seen_by_functions)
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_DEFAULT_REGION", "us-east-1")
        // Lambda sets it where the template asks for JSON logs; MiniStack does not.
        .env("AWS_LAMBDA_LOG_FORMAT", "JSON")
        .stdin(Stdio::piped())
        .stdout(output.try_clone()?)
        .stderr(output)
        // Its functions are in the group too, and end with it.
        .process_group(0)
        .spawn()
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Why there is no emulator, or no answer from it.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// The Python tools are missing, and with them MiniStack.
    #[error("the Python tools are not installed: run \"make tools\"")]
    NoTools,
    /// The process could not be started.
    #[error("starting the emulated AWS")]
    Start(#[source] io::Error),
    /// It ended, or did not answer in time; see its log.
    #[error("the emulated AWS did not start: see {}", log.display())]
    NotReady {
        /// What it wrote.
        log: PathBuf,
    },
    /// A call failed without a response.
    #[error("calling the emulated AWS")]
    Call(#[from] reqwest::Error),
    /// A call was answered with an error.
    #[error("{action} was answered {status}: {body}")]
    Refused {
        /// What was called.
        action: String,
        /// The HTTP status.
        status: u16,
        /// AWS's error message.
        body: String,
    },
}
