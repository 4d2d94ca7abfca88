//! `local up`, `local down` and `local env`, as processes of their own with a folder of their own.

#![expect(clippy::unwrap_used, reason = "all of this crate is a test")]

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use local::emulator::Client;
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use serde_json::{Value, json};

/// The longest that any step may take: on a busy machine, with the functions to build.
const WAIT_TIMEOUT: Duration = Duration::from_mins(3);

/// A folder in place of `.local/up`. What runs in it ends with the test.
struct UpFolder(PathBuf);

impl UpFolder {
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("up-{name}"));
        let _ = fs::remove_dir_all(&folder);
        Self(folder)
    }

    /// The program with these arguments and environment variables.
    fn local(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_local"));
        command
            .args(arguments)
            .env("GLADLY_RELAY_UP_FOLDER", &self.0)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // As a terminal does.
            .process_group(0);
        command
    }

    /// Runs it to its end.
    fn run(&self, command: &str) -> Ended {
        self.local(&[command], &[]).output().unwrap().into()
    }

    fn state(&self) -> Value {
        serde_json::from_slice(&fs::read(self.0.join("running.json")).unwrap()).unwrap()
    }

    /// The background process.
    fn process(&self) -> Option<Pid> {
        let process = fs::read_to_string(self.0.join("lock")).ok()?.parse().ok()?;
        Some(Pid::from_raw(process))
    }

    /// Waits until neither the background process nor its emulator nor a function is left: all of them have this folder
    /// in their environment.
    fn wait_until_all_have_ended(&self) {
        eventually("every process has ended", || self.processes().is_empty());
    }

    fn processes(&self) -> Vec<PathBuf> {
        let folder = self.0.to_str().unwrap().as_bytes();
        let has_folder = |process: &PathBuf| {
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            environment.windows(folder.len()).any(|part| part == folder)
        };
        let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
        processes.map(|entry| entry.unwrap().path()).filter(has_folder).collect()
    }
}

impl Drop for UpFolder {
    fn drop(&mut self) {
        let _ = self.local(&["down"], &[]).output();
    }
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    shown: String,
    complaint: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            shown: String::from_utf8(output.stdout).unwrap(),
            complaint: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    #[track_caller]
    fn succeeded(self) -> String {
        assert_eq!((self.code, self.complaint.as_str()), (Some(0), ""), "{}", self.shown);
        self.shown
    }

    /// Fails unless it complained in this one sentence.
    #[track_caller]
    fn refused(self, code: i32, sentence: &str) {
        assert_eq!((self.code, self.complaint), (Some(code), format!("{sentence}\n")));
    }
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < WAIT_TIMEOUT, "still waiting: {what}");
        sleep(Duration::from_millis(20));
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn port_of(url: &Value) -> u16 {
    url.as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn two_starts_at_once_share_one_relay_and_down_ends_it() {
    let folder = UpFolder::new("twice");
    let starts = [(); 2].map(|()| folder.local(&["up"], &[]).spawn().unwrap());
    let shown = starts.map(|it| Ended::from(it.wait_with_output().unwrap()).succeeded());
    let state = folder.state();
    for text in &shown {
        assert!(text.contains(state["webhook_url"].as_str().unwrap()), "{text}");
    }
    assert_eq!((&state["stack"], &state["region"]), (&json!("gladly-relay"), &json!("us-east-1")));
    let fields =
        ["stop", "webhook_key", "gladly_url", "conversation", "destination_url", "page_url"];
    assert!(fields.iter().all(|field| state[field].is_string()), "{state}");
    // Started once.
    let started = shown.iter().filter(|text| text.starts_with("Starting ")).count();
    assert_eq!(started, 1, "{shown:?}");

    assert_eq!(folder.run("down").succeeded(), "The relay is down.\n");
    assert_eq!(folder.processes(), Vec::<PathBuf>::new());
    for url in ["aws_url", "gladly_url", "destination_url", "page_url"] {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port_of(&state[url]))).unwrap_err();
    }
    assert_eq!(folder.run("down").succeeded(), "Nothing is running.\n");
    folder.run("env").refused(1, "nothing is running: start it with \"make up\"");
}

#[tokio::test]
async fn a_running_relay_has_the_ports_and_prints_the_newest_key_and_its_exports() {
    let folder = UpFolder::new("settings");
    let ports = [free_port(), free_port(), free_port(), free_port()];
    let texts = ports.map(|port| port.to_string());
    let names = ["AWS_PORT", "GLADLY_PORT", "DESTINATION_PORT", "PAGE_PORT"];
    let variables: Vec<_> = names.into_iter().zip(texts.iter().map(String::as_str)).collect();
    let started = Ended::from(folder.local(&["up"], &variables).output().unwrap()).succeeded();
    let state = folder.state();
    let urls = ["aws_url", "gladly_url", "destination_url", "page_url"];
    assert_eq!(urls.map(|url| port_of(&state[url])), ports);
    assert!(started.contains(state["webhook_key"].as_str().unwrap()), "{started}");
    assert!(started.contains(r#"eval "$(make -s env)""#), "{started}");

    let page = state["page_url"].as_str().unwrap();
    assert!(started.contains(page), "{started}");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let shown: Value =
        http.get(format!("{page}/state")).send().await.unwrap().json().await.unwrap();
    assert_eq!(shown["extraction"]["state"], "running", "{shown}");
    let emit = shown["commands"][0].as_str().unwrap();
    assert!(started.contains(emit), "the page names the same command: {emit}");

    // A rotation writes the new key below the old one.
    let key = "the-key-that-a-rotation-has-written";
    let keys = format!("{}\n{key}\n", state["webhook_key"].as_str().unwrap());
    let aws = Client::new(state["aws_url"].as_str().unwrap()).unwrap();
    let name = "/gladly-relay/webhook-keys";
    let parameter = json!({"Name": name, "Value": keys, "Type": "SecureString", "Overwrite": true});
    aws.ssm("PutParameter", parameter).await.unwrap();
    let found = folder.run("up").succeeded();
    assert!(found.contains(key) && !found.contains("Starting"), "{found}");
    assert!(!found.contains(state["webhook_key"].as_str().unwrap()), "{found}");

    let other = [("AWS_PORT", "1")];
    let sentence = "the relay is up without AWS_PORT 1: stop it with \"make down\" first";
    Ended::from(folder.local(&["up"], &other).output().unwrap()).refused(1, sentence);

    let exports = folder.run("env").succeeded();
    let expected = [
        format!("export AWS_ENDPOINT_URL='http://127.0.0.1:{}'", ports[0]),
        "export AWS_ACCESS_KEY_ID='test'".to_owned(),
        "export AWS_SECRET_ACCESS_KEY='test'".to_owned(),
        "export AWS_REGION='us-east-1'".to_owned(),
        "export AWS_DEFAULT_REGION='us-east-1'".to_owned(),
        "export GLADLY_RELAY_STACK='gladly-relay'".to_owned(),
        format!("export GLADLY_RELAY_WEBHOOK_URL='{}'", state["webhook_url"].as_str().unwrap()),
    ];
    assert_eq!(exports.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn an_interrupted_start_leaves_nothing_behind() {
    let folder = UpFolder::new("interrupted");
    let start = folder.local(&["up"], &[]).spawn().unwrap();
    eventually("the emulator starts", || folder.0.join("emulator.log").exists());
    killpg(Pid::from_raw(start.id().cast_signed()), Signal::SIGINT).unwrap();
    let ended = Ended::from(start.wait_with_output().unwrap());
    ended.refused(130, "interrupted: everything that was started has been stopped");
    assert_eq!(folder.processes(), Vec::<PathBuf>::new());
    assert!(!folder.0.join("running.json").exists());
}

#[test]
fn down_ends_a_start() {
    let folder = UpFolder::new("cancelled");
    let start = folder.local(&["up"], &[]).spawn().unwrap();
    eventually("the background process starts", || folder.process().is_some());
    assert_eq!(folder.run("down").succeeded(), "The relay is down.\n");
    let ended = Ended::from(start.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.complaint.starts_with("the relay did not start: "), "{ended:?}");
    folder.wait_until_all_have_ended();
}

#[tokio::test]
async fn a_crashed_relay_leaves_nothing_behind() {
    let folder = UpFolder::new("crashed");
    folder.run("up").succeeded();
    let state = folder.state();
    let [url, key] = ["webhook_url", "webhook_key"].map(|field| state[field].as_str().unwrap());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ping = http.post(url).header("x-api-key", key).body(r#"{"type":"PING"}"#);
    assert_eq!(ping.send().await.unwrap().status(), 200);
    // Itself, the emulator, and the function that answered.
    let processes = folder.processes();
    assert!(processes.len() >= 3 || !cfg!(target_os = "linux"), "they can be found: {processes:?}");
    kill(folder.process().expect("it runs"), Signal::SIGKILL).unwrap();
    folder.wait_until_all_have_ended();
    folder.run("env").refused(1, "nothing is running: start it with \"make up\"");
    assert_eq!(folder.run("down").succeeded(), "Nothing is running.\n");
    assert!(!folder.0.join("running.json").exists());
}

#[test]
fn a_relay_that_no_command_can_find_ends_by_itself() {
    let folder = UpFolder::new("lost");
    folder.run("up").succeeded();
    fs::remove_dir_all(&folder.0).unwrap();
    folder.wait_until_all_have_ended();
}

#[test]
fn a_port_that_cannot_be_used_is_named_before_anything_starts() {
    let folder = UpFolder::new("ports");
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let up = |name: &str, port: &str| -> Ended {
        folder.local(&["up"], &[(name, port)]).output().unwrap().into()
    };
    for name in ["AWS_PORT", "GLADLY_PORT", "DESTINATION_PORT", "PAGE_PORT"] {
        up(name, &port).refused(1, &format!("{name} {port} is in use by another program"));
        let sentence = format!("invalid {name} \"0\": expected a number from 1 to 65535");
        up(name, "0").refused(1, &sentence);
    }
    assert!(!folder.0.join("up.log").exists());
}

#[test]
fn an_invalid_argument_is_refused_before_anything_starts() {
    let folder = UpFolder::new("arguments");
    let commands = "expected one of: demo, dashboard, soak, up, down, env";
    for (arguments, sentence) in [
        (&[][..], commands.to_owned()),
        (&["upp"], format!("unknown command \"upp\": {commands}")),
        (&["demo", "short"], "invalid TOUR \"short\": expected \"full\" or nothing".to_owned()),
        (&["up", "again"], "unexpected argument \"again\": local up takes no arguments".to_owned()),
        (
            &["soak", "1", "0"],
            "invalid EVENTS \"0\": expected a number from 1 to 1000000".to_owned(),
        ),
    ] {
        Ended::from(folder.local(arguments, &[]).output().unwrap()).refused(2, &sentence);
    }
    assert!(!folder.0.exists());
}
