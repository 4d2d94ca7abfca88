//! The least that the job can cost: ingest-fn's exchanges with the Runtime API, SSM and SQS, and
//! nothing else. It checks no key, reads no JSON and signs nothing.

use std::{env, error::Error};

use bench::Peer;

fn main() -> Result<(), Box<dyn Error>> {
    let api = env::var("AWS_LAMBDA_RUNTIME_API")?;
    let endpoint = env::var("AWS_ENDPOINT_URL")?.replace("http://", "");
    let queue = env::var("EVENTS_QUEUE_URL")?;
    let keys = env::var("WEBHOOK_KEYS_PARAMETER")?;
    let (mut api, mut aws) = (Peer::at(&api)?, Peer::at(&endpoint)?);

    let ask = format!(r#"{{"Name":"{keys}","WithDecryption":true}}"#);
    aws.exchange("POST", "/", "AmazonSSM.GetParameter", &ask)?;
    let send = format!(
        r#"{{"QueueUrl":"{queue}","MessageBody":"{{\"v\":1,\"receivedAt\":\"2026-01-02T03:04:05.678Z\",\"event\":{{}}}}","MessageAttributes":{{"type":{{"DataType":"String","StringValue":"x"}}}}}}"#
    );
    let answer = r#"{"statusCode":200,"headers":{"content-type":"application/json"},"body":"{\"status\":\"queued\"}","isBase64Encoded":false,"cookies":[]}"#;
    loop {
        let id = api.exchange("GET", "/2018-06-01/runtime/invocation/next", "-", "")?;
        aws.exchange("POST", "/", "AmazonSQS.SendMessage", &send)?;
        let path = format!("/2018-06-01/runtime/invocation/{id}/response");
        api.exchange("POST", &path, "-", answer)?;
    }
}
