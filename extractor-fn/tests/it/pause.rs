//! The pause.

use jiff::{SignedDuration, Timestamp};
use testing::aws::{Fault, THROTTLED};

use crate::{TestApp, record};

#[tokio::test]
async fn while_paused_everything_is_returned_and_nothing_is_called() {
    let until = |hours| (Timestamp::now() + SignedDuration::from_hours(hours)).to_string();
    for (text, held) in [
        ("paused".to_owned(), true),
        (" PAUSED \n".to_owned(), true),
        (r#"{"state":"paused","by":"ada","reason":"audit"}"#.to_owned(), true),
        (format!(r#"{{"state":"paused","until":"{}"}}"#, until(1)), true),
        (format!(r#"{{"state":"paused","until":"{}"}}"#, until(-1)), false),
        ("stopped".to_owned(), true),
        (r#"{"state":"running","until":"some day"}"#.to_owned(), true),
        ("Running".to_owned(), false),
        (r#"{"state":"running","by":"ada"}"#.to_owned(), false),
    ] {
        let app = TestApp::new();
        let event = app.conversation("c-1");
        app.aws.put("/relay/pause", &text);
        for (receives, least, most) in [(1, 24, 36), (3, 96, 144), (99, 2_880, 4_320)] {
            let settled = app.batch(&[record(0, &event).received(receives)]).await;
            if held {
                settled.assert_returned(&["m-0"], least..=most);
            } else {
                settled.is_done();
            }
        }
        assert_eq!(app.calls("") == 0, held, "{text}");
        assert_eq!(app.destination.deliveries().is_empty(), held, "{text}");
    }
}

#[tokio::test]
async fn an_unreadable_pause_parameter_holds_unless_a_value_is_cached() {
    for fault in
        [THROTTLED, Fault::Refused(400, "AccessDeniedException"), Fault::Reset, Fault::Garbage(200)]
    {
        let app = TestApp::new();
        let event = app.conversation("c-1");
        app.aws.state().ssm_fault = Some(fault);
        app.extract([&event]).await.assert_returned(&["m-0"], 24..=36);

        app.aws.state().ssm_fault = None;
        app.extract([&event]).await.is_done();
        app.aws.state().ssm_fault = Some(fault);
        app.extract(&[event]).await.is_done();
    }
    let app = TestApp::new();
    let event = app.conversation("c-1");
    app.aws.state().parameters.remove("/relay/pause");
    app.extract(&[event]).await.assert_returned(&["m-0"], 24..=36);
}
