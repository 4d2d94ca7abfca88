//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use shared::QuarantineReason;

use crate::times::{parse_span, parse_time};

/// Sets up, watches and operates gladly-relay.
#[derive(Debug, Parser)]
#[command(
    name = "gladly-relay",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  gladly-relay status                      the relay that \"make up\" started
  gladly-relay status --stack acme         a stack in your AWS account
  gladly-relay pause --reason \"moving the destination\" --for 2h
  gladly-relay trace CONVERSATION

Exit codes:
  0 done   1 failed   2 wrong usage   3 not allowed   4 something is wrong (doctor, status --check, conformance)
  130 stopped with Ctrl-C"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// The stack in your AWS account; without it, what "make up" started
    #[arg(long, global = true, env = "GLADLY_RELAY_STACK", value_name = "NAME")]
    pub(crate) stack: Option<String>,
    /// The AWS region
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) region: Option<String>,
    /// The profile of the AWS configuration
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// For people, or one JSON document for scripts
    #[arg(long, global = true, value_enum, default_value_t = Output::Text, value_name = "FORMAT")]
    pub(crate) output: Output,
}

/// What a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Lines for people.
    Text,
    /// One JSON document.
    Json,
}

/// A command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write the tokens and the webhook key to SSM, encrypted, once Gladly has accepted them
    Secrets(SecretsArgs),
    /// Create or update the webhook at Gladly
    Webhook(SettingsArgs),
    /// Check everything, one line each: ok, WRONG with the remedy, or ?
    Doctor(SettingsArgs),
    /// Replace the webhook key without a gap, in two steps
    RotateKey(RotateKeyArgs),
    /// Deploy what "make package" built, ship code alone, or go back
    Deploy(DeployArgs),
    /// Show what runs, what waits, and for how long that is safe
    Status(StatusArgs),
    /// Pause extraction; events are held
    #[command(after_help = "\
Examples:
  gladly-relay pause --reason \"moving the destination\" --for 2h
  gladly-relay pause --until 2026-12-01T08:00Z")]
    Pause(PauseArgs),
    /// Resume after a pause, or after the circuit breaker has opened
    Resume,
    /// List, read, redrive or discard what is in quarantine
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// Queue events of the last 24 hours again, from Gladly's list
    #[command(after_help = "Example:\n  gladly-relay backfill --since 6h")]
    Backfill(RangeArgs),
    /// Queue conversations of the last 14 days again, from Gladly's exports
    #[command(after_help = "\
Example:
  gladly-relay import --from 2026-11-20T00:00Z --to 2026-11-22T00:00Z --dry-run")]
    Import(RangeArgs),
    /// Find out what happened to an event or a conversation
    Trace(TraceArgs),
    /// Queue a conversation again, to have it delivered as it is now
    Replay(ReplayArgs),
    /// Send a PING and a real event through the endpoint, and follow it to the destination
    Test(TestArgs),
    /// Check that a receiver does what docs/DELIVERY.md asks of it, with made-up deliveries
    #[command(after_help = "\
Needs no relay and no AWS login. All ids begin with conformance-, so that the kit can be run against a receiver that
also holds other data; at the end it has erased what it sent, except for its events and tombstones. The token is asked
for, or comes in DESTINATION_TOKEN.

Examples:
  gladly-relay conformance --receiver http://127.0.0.1:8080
  gladly-relay conformance --receiver https://staging.example.com/gladly --state https://staging.example.com/gladly-state")]
    Conformance(ConformanceArgs),
    /// Follow what both functions log, as lines for people
    #[command(after_help = "Example:\n  gladly-relay tail --since 1h --level warn --no-follow")]
    Tail(TailArgs),
    /// Show one line for each relay of the account and region
    Fleet,
    /// Print the least IAM policy of a command
    Policy(PolicyArgs),
    /// Show the versions of this program and of the stack
    Version,
    /// Print completions for a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

impl Command {
    /// Its name on the command line.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Secrets(_) => "secrets",
            Self::Webhook(_) => "webhook",
            Self::Doctor(_) => "doctor",
            Self::RotateKey(_) => "rotate-key",
            Self::Deploy(_) => "deploy",
            Self::Status(_) => "status",
            Self::Pause(_) => "pause",
            Self::Resume => "resume",
            Self::Quarantine(QuarantineCommand::List) => "quarantine list",
            Self::Quarantine(QuarantineCommand::Show { .. }) => "quarantine show",
            Self::Quarantine(QuarantineCommand::Redrive(_)) => "quarantine redrive",
            Self::Quarantine(QuarantineCommand::Discard(_)) => "quarantine discard",
            Self::Backfill(_) => "backfill",
            Self::Import(_) => "import",
            Self::Trace(_) => "trace",
            Self::Replay(_) => "replay",
            Self::Test(_) => "test",
            Self::Conformance(_) => "conformance",
            Self::Tail(_) => "tail",
            Self::Fleet => "fleet",
            Self::Policy(_) => "policy",
            Self::Version => "version",
            Self::Completions { .. } => "completions",
            Self::Man => "man",
        }
    }
}

/// What a stack that does not exist yet cannot provide. Each answers a question in advance.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SettingsArgs {
    /// Host of the Gladly organisation, such as acme.gladly.com
    #[arg(long, env = "GLADLY_HOST", value_name = "HOST")]
    pub(crate) gladly_host: Option<String>,
    /// E-mail address of the Gladly API user
    #[arg(long, env = "GLADLY_EMAIL", value_name = "ADDRESS")]
    pub(crate) gladly_email: Option<String>,
    /// URL that deliveries are posted to
    #[arg(long, env = "DESTINATION_URL", value_name = "URL")]
    pub(crate) destination_url: Option<String>,
    /// Header that carries the destination's token
    #[arg(long, env = "DESTINATION_TOKEN_HEADER", value_name = "NAME")]
    pub(crate) destination_token_header: Option<String>,
    /// Name of the SecureString with the webhook keys [default: /STACK/webhook-keys]
    #[arg(long, env = "WEBHOOK_KEYS_PARAMETER", value_name = "NAME")]
    pub(crate) webhook_keys_parameter: Option<String>,
    /// Name of the SecureString with Gladly's token [default: /STACK/gladly-token]
    #[arg(long, env = "GLADLY_TOKEN_PARAMETER", value_name = "NAME")]
    pub(crate) gladly_token_parameter: Option<String>,
    /// Name of the SecureString with the destination's token [default: /STACK/destination-token]
    #[arg(long, env = "DESTINATION_TOKEN_PARAMETER", value_name = "NAME")]
    pub(crate) destination_token_parameter: Option<String>,
}

/// `secrets`. The secrets themselves are asked for, or come in `GLADLY_TOKEN`, `DESTINATION_TOKEN` and
/// `WEBHOOK_KEY`, never as arguments, which the shell's history and the process list show.
#[derive(Debug, Clone, Args)]
pub(crate) struct SecretsArgs {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// KMS key to encrypt them with [default: the one used before]
    #[arg(long, env = "KMS_KEY", value_name = "KEY")]
    pub(crate) kms_key: Option<String>,
    /// Replace secrets that another stack uses without asking
    #[arg(long)]
    pub(crate) yes: bool,
}

/// `rotate-key`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RotateKeyArgs {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// How many days back the use of the old key is looked for
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=14))]
    pub(crate) days: u32,
    /// Whether Gladly is given the new key
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    pub(crate) header: Option<bool>,
    /// Remove the old key although it may still be used; asks first
    #[arg(
        long, value_name = "yes|no", value_parser = yes_or_no, num_args = 0..=1, require_equals = true,
        default_missing_value = "yes", default_value = "no", hide_default_value = true
    )]
    pub(crate) force: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

/// `deploy`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Without --stack it is about gladly-relay, in your AWS account.

Needs the SAM CLI, the template and what \"make package\" built. Parameters are in samconfig.STACK.toml, beside the
template: one file for each stack, written by the first deployment.

Examples:
  gladly-relay deploy --stack acme               the first time sam asks for every parameter
  gladly-relay deploy --stack acme --yes         in a pipeline
  gladly-relay deploy --stack acme --code-only   both functions' code, in seconds
  gladly-relay deploy --stack acme --roll-back   back to the code that --code-only replaced

How they fit together: CloudFormation does not know of code that --code-only shipped. The next \"deploy\" replaces it
only if its own package differs from the one it deployed before; to return to that one, use --roll-back. --roll-back
does not undo a \"deploy\": check the last good version out, \"make package\", and \"deploy\" again.")]
pub(crate) struct DeployArgs {
    /// The template
    #[arg(
        long,
        default_value = "template.yaml",
        value_name = "FILE",
        conflicts_with = "roll_back"
    )]
    pub(crate) template: std::path::PathBuf,
    /// The folder with what "make package" built [default: target/lambda beside the template, which ships no other]
    #[arg(long, value_name = "FOLDER", requires = "code_only")]
    pub(crate) packages: Option<std::path::PathBuf>,
    /// Ship the code alone, without a change of the template
    #[arg(long, conflicts_with = "roll_back")]
    pub(crate) code_only: bool,
    /// Go back to the code that --code-only replaced
    #[arg(long)]
    pub(crate) roll_back: bool,
    /// Execute the change without asking
    #[arg(long)]
    pub(crate) yes: bool,
}

/// `status`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StatusArgs {
    /// Show it again every few seconds, until Ctrl-C
    #[arg(long, conflicts_with = "check")]
    pub(crate) watch: bool,
    /// Exit with 4 if something is wrong, for monitoring
    #[arg(long)]
    pub(crate) check: bool,
}

/// `pause`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PauseArgs {
    /// Why, for the next person who finds it paused
    #[arg(long, value_name = "TEXT", value_parser = one_line)]
    pub(crate) reason: Option<String>,
    /// When it ends automatically, such as 2026-12-01T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "for_")]
    pub(crate) until: Option<Timestamp>,
    /// After how long it ends automatically, such as 2h
    #[arg(long = "for", id = "for_", value_name = "SPAN", value_parser = parse_span)]
    pub(crate) for_: Option<SignedDuration>,
    /// Who pauses [default: your login name]
    #[arg(long, value_name = "NAME", value_parser = one_line)]
    pub(crate) by: Option<String>,
}

/// `quarantine`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// List what is in quarantine, and why
    List,
    /// Show one message with its body
    Show {
        /// The message's id, as listed
        id: String,
    },
    /// Send messages back to the events queue
    Redrive(SelectionArgs),
    /// Delete messages for good; asks first
    Discard(DiscardArgs),
}

/// Which messages of the quarantine.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SelectionArgs {
    /// The one with this id, as listed
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Those with this reason
    #[arg(long, value_name = "REASON", value_parser = quarantine_reason)]
    pub(crate) reason: Option<QuarantineReason>,
    /// Those about this conversation
    #[arg(long, value_name = "ID")]
    pub(crate) conversation: Option<shared::Id>,
    /// At most this many
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=999_999))]
    pub(crate) max: Option<u64>,
    /// Only count them
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `quarantine discard`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DiscardArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

/// `backfill` and `import`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RangeArgs {
    /// Where the range begins, such as 2026-12-01T08:00:00Z
    #[arg(
        long, value_name = "TIME", value_parser = parse_time,
        required_unless_present = "since", conflicts_with = "since"
    )]
    pub(crate) from: Option<Timestamp>,
    /// How long ago the range begins, such as 6h
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub(crate) since: Option<SignedDuration>,
    /// Where the range ends [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) to: Option<Timestamp>,
    /// Only count what would be queued
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `trace`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TraceArgs {
    /// The id of an event or of a conversation
    pub(crate) id: shared::Id,
    /// How far back the log is searched
    #[arg(long, value_name = "SPAN", value_parser = parse_span, default_value = "7d")]
    pub(crate) since: SignedDuration,
}

/// `replay`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReplayArgs {
    /// The conversation's id
    #[arg(long, value_name = "ID")]
    pub(crate) conversation: shared::Id,
}

/// `test`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TestArgs {
    /// The conversation that the event is about [default: the newest at Gladly]
    #[arg(long, value_name = "ID")]
    pub(crate) conversation: Option<shared::Id>,
}

/// `conformance`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConformanceArgs {
    /// URL that deliveries are posted to: https, or on this machine
    #[arg(long, value_name = "URL")]
    pub(crate) receiver: String,
    /// URL that shows what the receiver holds [default: the receiver's with /state at its end]
    #[arg(long, value_name = "URL")]
    pub(crate) state: Option<String>,
    /// Header that carries the token [default: authorization]
    #[arg(long, env = "DESTINATION_TOKEN_HEADER", value_name = "NAME")]
    pub(crate) destination_token_header: Option<String>,
}

/// `tail`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TailArgs {
    /// How long ago to begin
    #[arg(long, value_name = "SPAN", value_parser = parse_span, default_value = "10m")]
    pub(crate) since: SignedDuration,
    /// The least level
    #[arg(long, value_enum, default_value_t = Level::Info, value_name = "LEVEL")]
    pub(crate) level: Level,
    /// End after what there is
    #[arg(long)]
    pub(crate) no_follow: bool,
}

/// A level of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Level {
    /// For finding a fault.
    Debug,
    /// What happened.
    Info,
    /// Passes by itself.
    Warn,
    /// Needs a person.
    Error,
}

/// `policy`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  gladly-relay policy
  gladly-relay policy status --stack acme
  gladly-relay policy deploy code-only

With --stack, and a login that may look it up, the policy names the stack's own resources.")]
pub(crate) struct PolicyArgs {
    /// The command, such as status or quarantine redrive; without one, all are listed
    pub(crate) command: Vec<String>,
}

fn one_line(text: &str) -> Result<String, String> {
    if text.chars().any(char::is_control) {
        Err("expected one line without control characters".into())
    } else if text.len() > 1_000 {
        Err("expected at most 1,000 bytes".into())
    } else {
        Ok(text.to_owned())
    }
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match &*text.trim().to_ascii_lowercase() {
        "yes" | "1" => Ok(true),
        "no" | "0" => Ok(false),
        _ => Err("expected yes or no".into()),
    }
}

fn quarantine_reason(text: &str) -> Result<QuarantineReason, String> {
    serde_json::from_value(text.into()).map_err(|_| {
        "expected one of unreadable, no-type, invalid-id, too-large, rejected, exhausted".into()
    })
}
