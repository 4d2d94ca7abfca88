//! Scratch.
#![allow(clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::print_stdout)]
use local::stack::*;
#[tokio::main]
async fn main() {
    let artifacts = Artifacts {
        ingest: "/tmp/target-local/debug/ingest-fn".into(),
        extractor: "/tmp/fake/bootstrap".into(),
    };
    let cloud = Cloud::start("scratch", &artifacts).await.unwrap();
    let settings = Settings::new("http://127.0.0.1:4000", "http://127.0.0.1:5000/d");
    let bad = settings.clone().with("RetentionDays", "15");
    println!("{}", cloud.deploy("bad", &bad).await.map(|_| ()).unwrap_err());
    let bad = settings.clone().with("GladlyHost", "evil.example.com");
    println!("{}", cloud.deploy("bad", &bad).await.map(|_| ()).unwrap_err());
    let stack = cloud.deploy("s1", &settings).await.unwrap();
    println!("{:?}", stack.post(&settings.webhook_keys[0], r#"{"type":"PING"}"#).await);
    println!("{stack:?}");
    println!("ready");
    std::thread::sleep(std::time::Duration::from_secs(100));
}
