//! The page in a browser, as a person sees and operates it.

use std::{
    fs,
    io::{self, Write as _},
};

use jiff::Timestamp;
use serde_json::json;
use testing::root;

use crate::{TestApp, browser::Browser, deletion, with_page};

/// Opens the page, or prints that there is no browser to open it with.
async fn open(app: &TestApp<'_>) -> Option<Browser> {
    let Some(program) = Browser::program() else {
        // Past the test runner, which would keep it to itself.
        let _ = writeln!(
            io::stderr(),
            "skipped: no Chromium to show the page; \"make page\" installs it"
        );
        return None;
    };
    Some(Browser::open(&program, &app.name, &app.url).await)
}

/// True for a row of the webhooks that has all of these texts.
fn has_row(texts: &[&str]) -> String {
    format!(
        "[...document.querySelectorAll('#webhook-rows tr')].some((row) => {}.every((text) => row.innerText.includes(text)))",
        json!(texts)
    )
}

/// True for an element that has this text.
fn has(selector: &str, text: &str) -> String {
    format!("document.querySelector('{selector}')?.innerText.includes({})", json!(text))
}

#[tokio::test]
async fn a_browser_shows_what_happens_as_it_happens() {
    with_page("page-browser", async |app| {
        let Some(mut browser) = open(&app).await else { return };
        browser.wait_for("the page shows what to do", &has("#no-webhooks", "No webhook")).await;
        // Lost if the page is loaded again.
        browser.value("window.loaded = 'once'").await;

        app.add("c-1", "Sample Customer", "Where is my order?");
        app.emit("CONTACT/MESSAGE_RECEIVED", "c-1").await;
        let texts = ["CONTACT/MESSAGE_RECEIVED", "c-1", "200 queued", "Delivered", "after "];
        browser.wait_for("the webhook is delivered", &has_row(&texts)).await;
        browser
            .wait_for("its delivery is listed", "document.querySelector('#delivery-rows tr')")
            .await;
        app.emit("CONVERSATION/CLOSED", "../agents").await;
        browser.wait_for("one is quarantined", &has_row(&["Quarantined", "invalid-id"])).await;

        app.pause().await;
        app.emit("CONVERSATION/CLOSED", "c-1").await;
        let paused = "Paused by ada · moving the destination · mapping disabled";
        browser.wait_for("the pause is shown", &has("#extraction", paused)).await;
        browser
            .wait_for("the event is held", &has_row(&["CONVERSATION/CLOSED", "c-1", "Held"]))
            .await;
        browser.wait_for("the backlog is shown", &has("#figures", "Backlog\n1\n")).await;

        browser.press_enter_on("#conversation-rows a").await;
        browser.wait_for("its text is shown", &has("#items", "Where is my order?")).await;
        browser
            .wait_for("its customer is shown", &has("#conversation-heading", "Sample Customer"))
            .await;
        browser
            .wait_for("its events are shown", &has("#event-rows", "CONTACT/MESSAGE_RECEIVED"))
            .await;
        let focused = browser.value("document.activeElement.getAttribute('aria-current')").await;
        assert_eq!(focused, "true", "the keyboard stays where it was");

        app.bury(json!([deletion("e-deleted", "u-c-1")])).await;
        let void = "Void: its customer was deleted";
        browser.wait_for("the conversation is void", &has("#conversation-void", void)).await;
        browser.wait_for("the tombstone is listed", &has("#tombstone-rows", "u-c-1")).await;
        let text = browser.value("document.body.innerText").await;
        let text = text.as_str().unwrap();
        assert!(
            !text.contains("Where is my order?") && !text.contains("Sample Customer"),
            "{text}"
        );

        assert_eq!(browser.value("window.loaded").await, "once", "it has updated by itself");
        assert_eq!(browser.errors(), [""; 0]);
    })
    .await;
}

#[tokio::test]
async fn a_browser_shows_what_a_message_says_and_never_runs_it() {
    with_page("page-script", async |app| {
        let Some(mut browser) = open(&app).await else { return };
        let text = "<img src=x onerror=\"window.ran = true\"><script>window.ran = true</script>";
        let name = "<b onclick=\"window.ran = true\">Sample</b>";
        app.add("c-1", name, text);
        app.emit("CONTACT/MESSAGE_RECEIVED", "c-1").await;
        browser.wait_for("it is delivered", "document.querySelector('#conversation-rows a')").await;
        browser.press_enter_on("#conversation-rows a").await;
        browser.wait_for("the text is shown", &has("#items", text)).await;
        browser.wait_for("the name is shown", &has("#conversation-rows", name)).await;
        let made = "document.querySelectorAll('main script, main img, main b').length";
        assert_eq!(browser.value(made).await, 0);
        assert_eq!(browser.value("typeof window.ran").await, "undefined");
        assert_eq!(browser.errors(), [""; 0]);

        // Nor would the policy let it, had it come into the page.
        let inject = "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = true'}))";
        browser.value(inject).await;
        assert_eq!(browser.value("typeof window.ran").await, "undefined");
    })
    .await;
}

#[tokio::test]
async fn a_browser_finds_headings_names_and_live_regions_for_everybody() {
    with_page("page-structure", async |app| {
        let Some(mut browser) = open(&app).await else { return };
        browser.wait_for("it is there", &has("#extraction", "Running")).await;
        let levels = "[...document.querySelectorAll('h1, h2, h3, h4')].map((it) => Number(it.tagName[1]))";
        let levels = browser.value(levels).await;
        let levels: Vec<_> = levels.as_array().unwrap().iter().map(|it| it.as_u64().unwrap()).collect();
        assert_eq!(levels[0], 1);
        assert!(levels.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{levels:?}");
        assert_eq!(browser.value("document.title").await, "gladly-relay on this machine");
        assert_eq!(browser.value("document.documentElement.lang").await, "en");
        let live = "document.querySelectorAll('[role=status], [role=alert]').length";
        assert!(browser.value(live).await.as_u64() >= Some(3));
        let nameless = "[...document.querySelectorAll('section, nav, [tabindex], dl')].filter((it) => !it.ariaLabel && !document.getElementById(it.getAttribute('aria-labelledby'))?.innerText).length";
        assert_eq!(browser.value(nameless).await, 0);
        for scheme in ["light", "dark"] {
            let feature = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
            browser.call("Emulation.setEmulatedMedia", feature).await;
            assert_eq!(browser.value(include_str!("contrast.js")).await, json!([]), "{scheme}");
        }
    })
    .await;
}

/// What the README shows: a pause in an eventful minute.
#[tokio::test]
#[ignore = "draws docs/page.png: make page"]
async fn picture() {
    with_page("page-picture", async |app| {
        let mut browser = open(&app).await.unwrap();
        let conversations: Vec<_> =
            app.gladly.organization().conversations.keys().cloned().collect();
        let [first, second, third, fourth, fifth, ..] = conversations.as_slice() else { panic!() };
        let [duplicate, merge] = {
            let mut organization = app.gladly.organization();
            [organization.new_id(), organization.new_id()]
        };
        app.add(&duplicate, "Sample Customer", "Sent twice by mistake.");
        let mut events = Vec::new();
        for (kind, conversation) in [
            ("CONVERSATION/CREATED", first.as_str()),
            ("CONTACT/MESSAGE_RECEIVED", second),
            ("CONVERSATION/TOPIC_ADDED", third),
            ("MESSAGE/RECEIVED", &duplicate),
        ] {
            events.push(app.emit(kind, conversation).await);
        }
        for event in &events {
            app.arrived(event).await;
        }
        app.emit("CONVERSATION/CLOSED", "../agents").await;
        app.bury(json!([
            {"kind": "conversation-merged", "eventId": merge, "from": duplicate, "into": first, "at": Timestamp::now()},
        ]))
        .await;
        let event = app.emit("CONVERSATION_STATUS/UPDATED", fourth).await;
        app.arrived(&event).await;
        app.pause().await;
        for (kind, conversation) in [
            ("CONTACT/MESSAGE_SENT", first),
            ("CONVERSATION/NOTE_CREATED", fifth),
            ("CONVERSATION/CLOSED", second),
        ] {
            app.emit(kind, conversation).await;
        }
        browser.wait_for("the last is held", &has_row(&["CONVERSATION/CLOSED", second, "Held"])).await;
        let link = format!("#conversation-rows a[href=\"#conversation={first}\"]");
        browser.press_enter_on(&link).await;
        browser.wait_for("it is open", "document.querySelector('#items li')").await;
        browser.value("document.activeElement.blur()").await;
        let height = browser.value("document.body.offsetHeight").await;
        browser.resize(height).await;
        fs::write(root().join("docs/page.png"), browser.picture().await).unwrap();
    })
    .await;
}
