//! The role: what it allows is called, and nothing else is. Every other test runs under it too, and
//! is refused what it does not allow.

use local::role::Role;

use crate::{EVENT, KEY, World};

#[tokio::test(start_paused = true)]
async fn every_permission_is_needed_and_none_is_missing() {
    let world = World::new();
    for body in [EVENT, "no event"] {
        assert_eq!(world.post(KEY, body.as_bytes()).await.0, 200);
    }
    let account = world.aws.state();
    assert_eq!(account.used, Role::named("IngestRole").pairs_of_the_code());
    assert!(account.denied.is_empty(), "{:?}", account.denied);
}
