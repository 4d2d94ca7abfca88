//! A headless Chromium with one page, driven by the `DevTools` protocol over pipes: no port, no library, and it ends when
//! this process does (<https://chromedevtools.github.io/devtools-protocol/>).

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// Debian's packages of the same source; the first is the smaller.
const PROGRAMS: [&str; 2] = ["chromium-headless-shell", "chromium"];
/// The longest that a condition may take: the machine may be busy.
const WAIT_TIMEOUT: Duration = Duration::from_mins(2);
/// `DevTools` reads from descriptor 3 and writes to 4.
const PIPES: &str = r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#;

/// A page in a browser. Dropping it ends the browser.
pub(crate) struct Browser {
    _process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    session: Option<String>,
    calls: u64,
    /// Exceptions and error messages of the page.
    errors: Vec<String>,
}

impl Browser {
    /// The program, if it is installed.
    pub(crate) fn program() -> Option<PathBuf> {
        let folders: Vec<_> = env::split_paths(&env::var_os("PATH")?).collect();
        let found = |name: &str| folders.iter().map(|it| it.join(name)).find(|it| it.is_file());
        PROGRAMS.into_iter().find_map(found)
    }

    /// Opens a page, in a profile of this name.
    pub(crate) async fn open(program: &Path, name: &str, url: &str) -> Self {
        let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&profile);
        fs::create_dir_all(&profile).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", PIPES, "sh"]).arg(program);
        command.args(["--headless", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"]);
        command.arg(format!("--user-data-dir={}", profile.display()));
        // Chromium refuses its sandbox to root, whose folder this is then.
        if fs::metadata(&profile).unwrap().uid() == 0 {
            command.arg("--no-sandbox");
        }
        command.arg("about:blank");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let to = process.stdin.take().unwrap();
        let from = BufReader::new(process.stdout.take().unwrap());
        let mut browser =
            Self { _process: process, to, from, session: None, calls: 0, errors: Vec::new() };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser.resize(json!(900)).await;
        browser.call("Page.navigate", json!({ "url": url })).await;
        browser
    }

    /// Calls a method, and returns its result.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let mut call = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            call["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{call}\0").as_bytes()).await.unwrap();
        loop {
            let mut message = Vec::new();
            self.from.read_until(0, &mut message).await.unwrap();
            assert!(message.pop() == Some(0), "the browser has ended");
            let message: Value = serde_json::from_slice(&message).unwrap();
            if message["id"] == id {
                assert_eq!(message["error"], Value::Null, "{method}");
                return message["result"].clone();
            }
            let entry = &message["params"]["entry"];
            if message["method"] == "Runtime.exceptionThrown" || entry["level"] == "error" {
                self.errors.push(message["params"].to_string());
            }
        }
    }

    /// The value of a JavaScript expression, once its promise, if it is one, is kept.
    pub(crate) async fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", params).await;
        assert_eq!(answer["exceptionDetails"], Value::Null, "{expression}");
        answer["result"]["value"].clone()
    }

    /// Waits until a JavaScript expression is true, looking at every frame.
    pub(crate) async fn wait_for(&mut self, what: &str, condition: &str) {
        let promise = format!(
            "new Promise((kept) => {{ const check = () => ({condition}) ? kept() : requestAnimationFrame(check); check(); }})"
        );
        if timeout(WAIT_TIMEOUT, self.value(&promise)).await.is_err() {
            let shown = timeout(WAIT_TIMEOUT, self.value("document.body.innerText")).await;
            panic!("still waiting: {what}: {}", shown.unwrap_or_default());
        }
    }

    /// Gives the focus to an element, and presses Enter.
    pub(crate) async fn press_enter_on(&mut self, selector: &str) {
        self.value(&format!("document.querySelector({}).focus()", json!(selector))).await;
        for kind in ["keyDown", "keyUp"] {
            let key = json!({"type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"});
            self.call("Input.dispatchKeyEvent", key).await;
        }
    }

    /// Gives the page this height.
    pub(crate) async fn resize(&mut self, height: Value) {
        let size =
            json!({"width": 1360, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// The page as a PNG.
    pub(crate) async fn picture(&mut self) -> Vec<u8> {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        BASE64_STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()
    }

    /// The page's exceptions and error messages so far.
    pub(crate) fn errors(&self) -> &[String] {
        &self.errors
    }
}
