//! What an integration that uses the same quota sees of the relay.

use simulation::{Scenario, neighbour};

fn evenly(rate: f64, environments: usize, seed: u64) -> simulation::Neighbour {
    let result = neighbour(Scenario { rate, poisson: false, environments, seed });
    assert_eq!(result.violation, None);
    result
}

#[test]
fn a_neighbour_has_no_more_429s_than_alone_and_the_relay_uses_the_rest() {
    for seed in 0..4 {
        let (alone, beside) = (evenly(7.5, 0, seed), evenly(7.5, 1, seed));
        let more = beside.throttled_share() - alone.throttled_share();
        assert!(more <= 0.001, "{beside}");
        assert!(beside.use_of_rest() >= 0.6, "{beside}");
    }
}

#[test]
fn alone_the_relay_comes_up_to_its_cap_within_a_minute() {
    for seed in 0..2 {
        let alone = evenly(0.0, 1, seed);
        assert!(alone.at_cap.is_some_and(|at| at.as_secs() <= 60), "{alone}");
        assert!(alone.use_of_cap() >= 0.9, "{alone}");
        assert_eq!(alone.relay_throttled, 0, "{alone}");
    }
}

#[test]
fn two_environments_share_what_a_neighbour_leaves() {
    for (rate, most) in [(0.0, 0.0), (2.0, 0.005), (7.5, 0.015)] {
        for seed in 0..2 {
            let both = evenly(rate, 2, seed);
            assert!(both.least_share() >= 0.35, "{both}");
            assert!(both.use_of_rest() >= 0.6, "{both}");
            assert!(both.throttled_share() <= most, "{both}");
        }
    }
}
