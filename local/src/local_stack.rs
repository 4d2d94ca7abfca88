//! A Gladly simulator and a destination, and the settings of a stack between them.

use std::io;

use crate::stack::Settings;
use testing::{
    destination::{self, Destination},
    gladly::{self, Gladly},
};

/// The settle window of the demo and of "make up": long enough to be seen, too short to wait for.
pub const SETTLE_SECONDS: &str = "2";

/// The servers around a stack, and its settings.
#[derive(Debug)]
pub struct LocalStack {
    /// Where its events come from.
    pub gladly: Gladly,
    /// Where its deliveries go.
    pub destination: Destination,
    /// The stack's settings, with generated secrets.
    pub settings: Settings,
}

impl LocalStack {
    /// Starts both on loopback: Gladly with this many generated conversations, and with the webhook retry schedule
    /// scaled by `time_scale`.
    pub fn start(conversations: usize, time_scale: f64) -> io::Result<Self> {
        Self::start_on(conversations, time_scale, 0, 0)
    }

    /// The same on these ports of Gladly and the destination; 0 takes a free one.
    pub fn start_on(
        conversations: usize,
        time_scale: f64,
        gladly_port: u16,
        destination_port: u16,
    ) -> io::Result<Self> {
        let settings = Settings::new("", "").with("SettleSeconds", SETTLE_SECONDS);
        let gladly = Gladly::start(gladly::Options {
            port: gladly_port,
            conversations,
            time_scale,
            email: settings.gladly_email.clone(),
            token: settings.gladly_token.clone(),
            ..gladly::Options::default()
        })?;
        let destination = Destination::start(destination::Options {
            port: destination_port,
            token: ("authorization".to_owned(), format!("Bearer {}", settings.destination_token)),
            ..destination::Options::default()
        })?;
        let settings = Settings {
            gladly_url: gladly.url().to_owned(),
            destination_url: format!("{}/deliveries", destination.url()),
            ..settings
        };
        Ok(Self { gladly, destination, settings })
    }
}
