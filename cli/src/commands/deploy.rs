//! `deploy`: what "make package" built, through sam and CloudFormation, or the code alone.
//!
//! The first time sam asks for every parameter. After that a change is only prepared, shown, and refused
//! if it would delete held events or end a pause.

mod change;
mod code;
mod held;
mod package;
mod sam;
mod samconfig;
mod stack;

use std::collections::BTreeMap;

use serde_json::json;

use crate::{
    Context,
    args::DeployArgs,
    commands::deploy::{
        change::{ChangeSets, Changes},
        package::{Architecture, Package},
        sam::Sam,
        samconfig::SamConfigFile,
        stack::{Present, Update},
    },
    error::{Error, Result},
    relay::Relay,
    session::Session,
};

/// The stack's name unless another is chosen.
const DEFAULT_STACK: &str = "gladly-relay";
/// The parameters that name secrets, which no two stacks of an account should share.
const SECRETS: [(&str, &str); 3] = [
    ("WebhookKeysParameter", "webhook-keys"),
    ("GladlyTokenParameter", "gladly-token"),
    ("DestinationTokenParameter", "destination-token"),
];
/// The parameters without a default.
const REQUIRED: [&str; 3] = ["GladlyHost", "GladlyEmail", "DestinationUrl"];

/// Deploys, ships code, or rolls it back.
pub(crate) async fn run(context: &Context, args: &DeployArgs) -> Result<()> {
    if !args.yes && !context.terminal.can_ask() {
        return Err(Error::usage(
            "without a terminal, and with --output json, nothing can be confirmed; pass --yes.",
        ));
    }
    // Never what "make up" started.
    let mut global = context.global.clone();
    global.stack.get_or_insert_with(|| DEFAULT_STACK.into());
    let session = Session::open(&global).await?;
    if args.code_only || args.roll_back {
        let relay = not_yet_looked_up(session);
        return if args.code_only {
            Box::pin(code::ship(context, args, relay)).await
        } else {
            Box::pin(code::roll_back(context, args, relay)).await
        };
    }
    let sam = Sam::new(&session, &args.template)?;
    let config = SamConfigFile::find(sam.folder(), &session)?;
    let [package, _] = Package::both(&sam.folder().join("target/lambda"))?;
    let step = Relay::find(session.clone());
    let relay = context.terminal.during("looking up the stack", step).await?;
    let deployment = Deployment { context, args, sam, config, package, relay };
    match stack::present(&deployment.relay).await? {
        Present::Nothing => deployment.first().await,
        Present::Relay => deployment.later().await,
    }
}

fn not_yet_looked_up(session: Session) -> Relay {
    let name = session.stack.clone();
    let (parameters, outputs) = Default::default();
    Relay { session, name, status: None, parameters, outputs }
}

/// One deployment through sam.
struct Deployment<'a> {
    context: &'a Context,
    args: &'a DeployArgs,
    sam: Sam<'a>,
    config: SamConfigFile,
    /// Either function's: both are for the same architecture.
    package: Package,
    relay: Relay,
}

impl Deployment<'_> {
    /// The first deployment of this stack.
    async fn first(&self) -> Result<()> {
        if self.context.terminal.can_ask() {
            return self.guided().await;
        }
        let missing: Vec<_> =
            REQUIRED.into_iter().filter(|name| self.config.parameter(name).is_none()).collect();
        let has_includes = self.has_includes();
        if !missing.is_empty() && !has_includes {
            return Err(Error::usage(format!(
                "the first deployment of {} needs the parameters {} in {}; deploy at a terminal, where sam asks for \
                 them and writes that file.",
                self.relay.name,
                missing.join(", "),
                self.config.path.display()
            )));
        }
        self.check_architecture()?;
        // What sam is given here replaces what the file has, so it is given both.
        let mut proposed = BTreeMap::new();
        if !has_includes {
            proposed = self.secret_names();
            proposed.extend(self.config.config.clone().unwrap_or_default().parameters);
        }
        self.update(&proposed).await
    }

    /// Has sam ask for everything.
    async fn guided(&self) -> Result<()> {
        let Deployment { context, relay, config, .. } = self;
        self.check_architecture()?;
        let mut proposed = self.secret_names();
        proposed.insert("Architecture".into(), self.package.architecture.to_string());
        match &config.config {
            Some(known) => proposed.extend(known.parameters.clone()),
            // sam accepts no --config-file that does not exist.
            None => config.write(&relay.session, &BTreeMap::new())?,
        }
        context.terminal.say(&format!(
            "The first deployment of {} to {}: sam asks for every parameter, and saves them in {}.",
            relay.name,
            relay.session.region,
            config.name()
        ));
        context.if_stopped("what sam has begun continues in CloudFormation");
        let deployed = self.sam.guided(config, &proposed).await;
        if config.config.is_none() {
            config.remove_unused(&relay.session);
        }
        deployed?;
        let relay = Relay::find(relay.session.clone()).await?;
        if stack::present(&relay).await? == Present::Nothing {
            return Err(Error::failed(format!(
                "sam ended without deploying {}; to deploy, confirm its change.",
                relay.name
            )));
        }
        let doctor = relay.command("doctor");
        context
            .terminal
            .say(&format!("Deployed. Next: {}, then {doctor}.", relay.command("webhook")));
        Ok(())
    }

    /// A deployment over what is deployed.
    async fn later(&self) -> Result<()> {
        let Deployment { context, relay, config, .. } = self;
        self.check_architecture()?;
        if config.config.is_some() {
            context.terminal.say(&format!("Parameters are those of {}.", config.path.display()));
        } else {
            config.write(&relay.session, &relay.parameters)?;
            context.terminal.say(&format!(
                "Wrote the stack's present parameters to {}; change them there.",
                config.path.display()
            ));
        }
        self.update(&BTreeMap::new()).await
    }

    /// Prepares the change, shows it, and executes it.
    async fn update(&self, proposed: &BTreeMap<String, String>) -> Result<()> {
        let Deployment { context, relay, .. } = self;
        let mut change_sets = ChangeSets::note(context, relay).await?;
        let done = self.prepare_and_execute(&mut change_sets, proposed).await;
        change_sets.discard().await;
        done
    }

    async fn prepare_and_execute(
        &self,
        change_sets: &mut ChangeSets<'_>,
        proposed: &BTreeMap<String, String>,
    ) -> Result<()> {
        let Deployment { context, relay, args, .. } = self;
        let terminal = &context.terminal;
        terminal.say(&format!("Preparing the change of {}…", relay.name));
        let step = self.sam.prepare(&self.config, proposed);
        let printed = terminal.during("packaging and uploading with sam", step).await?;
        let Some(change_set) = change_sets.find(&printed).await?.map(str::to_owned) else {
            terminal.say("Nothing has changed.");
            terminal.result("deploy", &result(false, &Changes::default()));
            return Ok(());
        };
        let changes = Changes::describe(relay, &change_set).await?;
        changes.show(context, &relay.name);
        if relay.is_deployed() {
            held::check(relay, &changes).await?;
        }
        terminal.confirm(&format!("Deploy this to {}?", relay.name), args.yes).await?;
        // Before the call: it may have arrived when the answer is lost.
        context.if_stopped("CloudFormation continues by itself");
        let update = Update::execute(relay, &change_set).await?;
        change_sets.release();
        terminal.say("Deploying…");
        terminal.during("CloudFormation is changing the stack", update.wait()).await?;
        terminal.say("Deployed.");
        terminal.result("deploy", &result(true, &changes));
        Ok(())
    }

    /// Refuses packages for another processor than what the stack is, or becomes, for.
    fn check_architecture(&self) -> Result<()> {
        let present = self.relay.parameters.get("Architecture").map(String::as_str);
        let chosen = self.config.parameter("Architecture").or(present);
        // Where sam asks, it proposes what was built.
        let is_asked = chosen.is_none() && self.context.terminal.can_ask();
        if is_asked || self.has_includes() {
            return Ok(());
        }
        let deployed = chosen.map_or(Ok(Architecture::Arm64), str::parse)?;
        let how = format!(", or set the parameter Architecture in {}", self.config.name());
        self.package.check(deployed, &how)
    }

    fn has_includes(&self) -> bool {
        self.config.config.as_ref().is_some_and(|config| config.has_includes)
    }

    /// The names of this stack's own secrets.
    fn secret_names(&self) -> BTreeMap<String, String> {
        let stack = &self.relay.name;
        SECRETS.iter().map(|(name, last)| ((*name).into(), format!("/{stack}/{last}"))).collect()
    }
}

/// What a script reads.
fn result(is_changed: bool, changes: &Changes) -> serde_json::Value {
    json!({"changed": is_changed, "parameters": changes.parameters, "resources": changes.resources})
}
