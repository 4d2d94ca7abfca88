//! The controller's schedule, as in the template.

use local::stack::Function;

use crate::{TestApp, eventually, summaries};

#[tokio::test]
async fn a_missed_change_is_corrected_within_a_minute() {
    let app = TestApp::new("schedule").await;
    // Disabled by hand, without an event that invokes the controller.
    app.stack.enable_mapping(false).await.unwrap();
    let ids = app.queue_all(&["c-1", "c-2"]).await;

    // The emulator checks every 10 s whether a minute is over.
    eventually("the mapping is enabled", async || {
        app.stack.mapping_state().await.unwrap() == "Enabled"
    })
    .await;
    app.arrived(&ids).await;
    app.settled().await;
    eventually("the controller is done", async || {
        let lines = app.stack.logs(Function::Extractor).await.unwrap();
        !summaries(&lines, "task done").is_empty()
    })
    .await;
    app.end().await;
}
