//! Gladly and the destination over TLS, with the negotiated protocol.

use std::time::Duration;

use testing::tls::Tls;

use crate::{TestApp, record};

fn protocols(traffic: &testing::server::Traffic) -> Vec<String> {
    traffic.calls("").into_iter().map(|call| call.protocol).collect()
}

#[tokio::test]
async fn fetches_and_deliveries_each_share_one_http_2_connection() {
    let (gladly, destination) = (Tls::new().unwrap(), Tls::new().unwrap());
    let app = TestApp::connected(&[], Some(gladly.clone()), Some(destination.clone()));
    for id in ["c-1", "c-2", "c-3"] {
        let event = app.conversation(id);
        app.extract([&event]).await.is_done();
    }
    assert_eq!(app.destination.deliveries().len(), 3);
    for traffic in [app.gladly.traffic(), app.destination.traffic()] {
        let protocols = protocols(traffic);
        assert!(protocols.iter().all(|protocol| protocol == "HTTP/2.0"), "{protocols:?}");
    }
    // Conversation and items are fetched concurrently: the first time there was no connection to share.
    assert!(gladly.connections() <= 2, "{}", gladly.connections());
    assert_eq!(destination.connections(), 1);
}

#[tokio::test]
async fn a_silent_connection_to_gladly_is_replaced() {
    let tls = Tls::new().unwrap();
    let app = TestApp::connected(&[], Some(tls.clone()), None);
    let first = app.conversation("c-1");
    app.extract([&first]).await.is_done();
    tls.stall();
    let opened = tls.connections();
    let second = app.conversation("c-2");
    app.extract([&second]).await.is_done();
    assert!(tls.connections() > opened);
    assert_eq!(app.destination.event_ids().len(), 2);
}

#[tokio::test]
async fn a_silent_connection_to_the_destination_is_replaced() {
    let tls = Tls::new().unwrap();
    let app = TestApp::connected(&[], None, Some(tls.clone()));
    let first = app.conversation("c-1");
    app.extract([&first]).await.is_done();
    tls.stall();
    let second = app.conversation("c-2");
    // So little time that an attempt on the silent connection is short.
    let left = Duration::from_secs(12);
    crate::settle(&app.extractor, &app.aws, &[record(0, &second)], left).await.is_done();
    assert_eq!((tls.connections(), app.destination.deliveries().len()), (2, 2));
}
