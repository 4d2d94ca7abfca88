//! The bucket that deliveries are written to, looked up without writing anything.

use bytes::Bytes;
use jiff::Timestamp;
use shared::Bucket;

use crate::{
    error::{Error, NO_CREDENTIALS, Result},
    http::Http,
    session::Session,
};

/// Where a bucket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the session's region.
    Here,
    /// In another region.
    Elsewhere(String),
    /// There is none of that name.
    Missing,
}

/// Finds a bucket, by `HeadBucket`: S3 names its region in every answer about one that exists, also where the login
/// may not list it (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadBucket.html>).
pub(crate) async fn find(session: &Session, name: &str) -> Result<Place> {
    let what = format!("could not look up the bucket {name}");
    let bucket = Bucket::new(&session.config, name);
    let request = bucket.request("HEAD", "", &[], &Bytes::new(), Timestamp::now()).await;
    let request = request.map_err(|_| Error::denied(format!("{what}: {NO_CREDENTIALS}")))?;
    let answer = Http::new().exchange(request).await;
    let answer = answer.map_err(|reason| Error::failed(format!("{what}: {reason}.")))?;
    let region = answer.header("x-amz-bucket-region");
    match (answer.status, region) {
        (404, _) => Ok(Place::Missing),
        (_, Some(region)) if region != session.region => Ok(Place::Elsewhere(region.to_owned())),
        (200, _) => Ok(Place::Here),
        (403, _) => {
            let permission = "s3:ListBucket";
            Err(Error {
                permission: Some(permission.into()),
                ..Error::denied(format!("{what}: you lack the permission {permission}."))
            })
        }
        (status, _) => Err(Error {
            code: Some(status.to_string()),
            ..Error::failed(format!("{what}: S3 answered {status}."))
        }),
    }
}
