//! The destination.

use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use serde_json::Value;
use testing::connector::Reply;

use super::{failure, status, token};
use crate::{
    checker::{Invocation, conversations},
    invariant,
    plan::Upstream,
    sim::Simulation,
};

/// The destination's reply to a delivery.
pub(crate) fn deliver(sim: &Simulation, request: &HttpRequest, by: Invocation) -> Reply {
    sim.count("deliveries");
    let mut failure = failure(sim, Upstream::Destination);
    // The response to an accepted delivery may be lost.
    let response_lost = matches!(failure, Some(Reply::Reset | Reply::Hang)) && sim.goes_wrong(0.3);
    if let Some(failure) = failure.take_if(|_| !response_lost) {
        sim.count("failed deliveries");
        if matches!(failure.code(), Some(400 | 422)) {
            sim.check(|checker, _| checker.refused(&read(request)));
        }
        return failure;
    }
    let given = request.headers().get("authorization").unwrap_or_default();
    if given != format!("Bearer {}", token(sim, Upstream::Destination)) {
        sim.count("refused credentials");
        return status(403);
    }
    let delivery = read(request);
    if request.headers().get("idempotency-key") != delivery["id"].as_str() {
        sim.violate(invariant::DELIVERY_IS_CORRECT, || {
            "the idempotency key is not the delivery's id".into()
        });
    }
    let refusal = conversations(&delivery)
        .into_iter()
        .find_map(|id| sim.plan.conversation(id)?.refusal(sim.elapsed()));
    if let Some(code) = refusal {
        sim.count("refused deliveries");
        sim.check(|checker, _| checker.refused(&delivery));
        return status(code);
    }
    sim.check(|checker, cx| checker.check_delivery(&delivery, by, cx));
    sim.count_many("bytes delivered", request.body().bytes().map_or(0, <[u8]>::len));
    sim.count_many("snapshots delivered", delivery["conversations"].as_array().map_or(0, Vec::len));
    if let Some(failure) = failure {
        sim.count("answers lost");
        return failure;
    }
    status(200)
}

fn read(request: &HttpRequest) -> Value {
    serde_json::from_slice(request.body().bytes().unwrap_or_default()).unwrap_or_default()
}
