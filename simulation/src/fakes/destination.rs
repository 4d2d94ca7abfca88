//! The destination.

use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use serde_json::Value;
use testing::connector::Reply;

use super::{failure, status, token};
use crate::{
    checker::{Invocation, conversations},
    invariant,
    plan::Upstream,
    world::World,
};

/// Takes a delivery, or does not.
pub(crate) fn deliver(world: &World, request: &HttpRequest, by: Invocation) -> Reply {
    world.count("deliveries");
    let mut failure = failure(world, Upstream::Destination);
    // What was taken may go unanswered.
    let unheard = matches!(failure, Some(Reply::Reset | Reply::Hang)) && world.goes_wrong(0.3);
    if let Some(failure) = failure.take_if(|_| !unheard) {
        world.count("failed deliveries");
        if matches!(failure.code(), Some(400 | 422)) {
            world.check(|checker, _| checker.refused(&read(request)));
        }
        return failure;
    }
    let given = request.headers().get("authorization").unwrap_or_default();
    if given != format!("Bearer {}", token(world, Upstream::Destination)) {
        world.count("refused credentials");
        return status(403);
    }
    let delivery = read(request);
    if request.headers().get("idempotency-key") != delivery["id"].as_str() {
        world.violate(invariant::HONEST, || "the idempotency key is not the delivery's id".into());
    }
    let refusal = conversations(&delivery)
        .into_iter()
        .find_map(|id| world.plan.conversation(id)?.kind.refusal());
    if let Some(code) = refusal {
        world.count("refused deliveries");
        world.check(|checker, _| checker.refused(&delivery));
        return status(code);
    }
    world.check(|checker, cx| checker.check_delivery(&delivery, by, cx));
    if let Some(failure) = failure {
        world.count("answers lost");
        return failure;
    }
    status(200)
}

fn read(request: &HttpRequest) -> Value {
    serde_json::from_slice(request.body().bytes().unwrap_or_default()).unwrap_or_default()
}
